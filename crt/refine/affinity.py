"""Feature affinity: maps spread over the whole photo between patches whose features point the same way.

A self-supervised or fine-tuned transformer gives patches of one object similar features, wherever they lie.  A patch's
score becomes a mean of the scores of all patches, weighted by A = max(cos, 0)^power with rows that sum to one, so that
a flat map stays as it is.  The features are those after the last block, computed on the model's tiles and averaged
where tiles overlap; every patch then sees every other, also across tiles.
"""

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from crt.cam.attention import evaluating
from crt.cam.functional import snapped_size
from crt.cam.spread import spread
from crt.cam.tiling import cut, merge, pad_to
from crt.images import resize, shrink_factor, to_unit
from crt.refine.inputs import TransformerModel, check_pair, resized

__all__ = ["FeatureAffinity"]

TILES = 16  # computed at once


class FeatureAffinity(nn.Module):
    """``spread`` as a refiner, by the features of the model that made the maps or of any other ``CRT``.

    Args:
        model: the transformer.  It is used, not owned: moving the refiner or changing its mode leaves the model alone.
        power: exponent of the positive cosines, above 0.
        rounds: how often the maps are spread, at least 1.
        max_side: photos with a longer side are seen as if reduced to it (in pixels); None sees them as they are.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self, model: TransformerModel, *, power: float = 4.0, rounds: int = 1, max_side: int | None = 640
    ) -> None:
        super().__init__()
        if not power > 0 or rounds < 1 or (max_side is not None and max_side < 1):
            raise ValueError(
                f"power must be above 0, rounds and max_side at least 1; got {power}, {rounds} and {max_side}."
            )
        self._used = (model,)  # a tuple, so that torch does not take the model for a part of this module
        self.power, self.rounds, self.max_side = power, rounds, max_side

    @property
    def model(self) -> TransformerModel:
        """The transformer."""
        return self._used[0]

    @torch.no_grad()
    def forward(self, image: Tensor, cam: Tensor) -> Tensor:
        """Refined maps.

        Args:
            image: (B, 3, H, W), uint8 in [0, 255] or floating point in [0, 1].
            cam: (B, k, h, w), floating point in [0, 1]; of any size.

        Returns:
            Like ``cam``; weighted means of its values.

        Raises:
            ValueError, TypeError: other shapes or dtypes.
        """
        check_pair(image, cam)
        model, (height, width) = self.model, image.shape[-2:]
        size = snapped_size(height, width, shrink_factor(height, width, self.max_side), model.patch)
        seen = (to_unit(image).to(model.device) - model.mean) / model.std
        refined = []
        for photo, maps in zip(seen, cam.to(seen), strict=True):
            features = self.features(resize(photo, size, antialias=True))
            grid = (features.shape[-2], features.shape[-1])
            flat = resize(maps, grid, antialias=True).flatten(1)
            walked = spread(flat, features.flatten(1).T, power=self.power, rounds=self.rounds)
            refined.append(walked.view(-1, *grid))
        return resized(torch.stack(refined), cam.shape[-2:]).to(cam)

    @torch.no_grad()
    def features(self, photo: Tensor) -> Tensor:
        """A normalized photo of whole patches, (3, H, W) -> (D, H / patch, W / patch): tokens after the last block."""
        model = self.model
        patch, tile, stride = model.patch, model.tile, model.stride
        grid = (photo.shape[-2] // patch, photo.shape[-1] // patch)
        tiles = cut(pad_to(photo, tile, tile)[None], tile, stride).to(model.head.weight)
        with evaluating(cast(nn.Module, model)):
            tokens = torch.cat([model.forward_features(some)[:, model.prefix :] for some in tiles.split(TILES)])
        maps = rearrange(tokens.float(), "t (h w) d -> t d h w", h=tile // patch)
        return merge(maps, grid, tile // patch, stride // patch)[0]

    def extra_repr(self) -> str:
        return f"power={self.power}, rounds={self.rounds}, max_side={self.max_side}"
