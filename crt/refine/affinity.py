"""Feature affinity: maps spread over the whole photo between patches whose features point the same way.

A self-supervised or fine-tuned transformer gives patches of one object similar features, wherever they lie.  A patch's
score becomes a mean of the scores of all patches, weighted by A = max(cos, 0)^power with rows that sum to one, so that
a flat map stays as it is.  The features are those after the last block: of the whole photo, or of tiles, averaged where
they overlap, for a model that sees tiles.  Either way every patch sees every other.
"""

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from crt.cam.attention import evaluating
from crt.cam.protocol import TransformerModel
from crt.cam.spread import spread
from crt.refine.transformer import TILES, TransformerRefiner

__all__ = ["FeatureAffinity"]


class FeatureAffinity(TransformerRefiner):
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
        if not power > 0 or rounds < 1 or (max_side is not None and max_side < 1):
            raise ValueError(
                f"power must be above 0, rounds and max_side at least 1; got {power}, {rounds} and {max_side}."
            )
        super().__init__(model, max_side)
        self.power, self.rounds = power, rounds

    def refine_patches(self, photo: Tensor, maps: Tensor) -> Tensor:
        """A normalized photo of whole patches, (3, H, W), and maps (k, H / patch, W / patch) -> refined maps."""
        features = self.features(photo).flatten(1).T
        return spread(maps.flatten(1), features, power=self.power, rounds=self.rounds).view_as(maps)

    @torch.no_grad()
    def features(self, photo: Tensor) -> Tensor:
        """A normalized photo of whole patches, (3, H, W) -> (D, H / patch, W / patch): tokens after the last block."""
        model, view = self.model, self.view(photo)
        tiles = torch.stack([*view.cut(photo)]).to(model.head.weight)
        with evaluating(cast(nn.Module, model)):
            tokens = torch.cat([model.forward_features(some)[:, model.prefix :] for some in tiles.split(TILES)])
        return view.merge(rearrange(tokens.float(), "t (h w) d -> t d h w", h=view.in_patches[1][0]))

    def extra_repr(self) -> str:
        return f"power={self.power}, rounds={self.rounds}, max_side={self.max_side}"
