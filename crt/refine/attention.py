"""Attention affinity: a patch's score becomes a mean of the scores of the patches that it attends to.

The transformer's patch-to-patch attention refines CAMs in MCTformer (Xu et al., CVPR 2022) and TransCAM (Li et al.,
2022).  Departures: a mean over chosen blocks and all passes, on overlapping tiles that are merged as those of the CAM
are; rows sum to one, so that a flat map stays as it is.
"""

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from crt.cam.attention import evaluating, patch_attention
from crt.cam.functional import snapped_size
from crt.cam.tiling import cut, merge, pad_to
from crt.images import resize, shrink_factor, to_unit
from crt.refine.inputs import TransformerModel, check_pair, resized

__all__ = ["AttentionAffinity"]

TILES = 16  # computed at once


class AttentionAffinity(nn.Module):
    """Refines maps by a vision transformer's own attention; maps of a photo are seen on the grid of its patches.

    Of each tile one matrix of patches x patches is held, the sum over blocks and passes, and one more of the block and
    head that is being added.

    Args:
        model: a ``CRT``.  It is used, not owned: moving the refiner or changing its mode leaves the model alone.
        blocks: numbers of the blocks whose attention counts, from 0, negative ones from the last; None takes the first
            half, which attends to near and similar patches (the later blocks lower the mIoU of our seeds).
        power: exponent of the mean attention before its rows are brought to a sum of one, above 0; the higher, the
            fewer patches count.
        max_side: photos with a longer side are seen as if reduced to it (in pixels); None sees them as they are.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        model: TransformerModel,
        blocks: Sequence[int] | None = None,
        power: float = 1.0,
        *,
        max_side: int | None = 640,
    ) -> None:
        super().__init__()
        depth = len(model.backbone.blocks)
        chosen = range((depth + 1) // 2) if blocks is None else blocks
        if not chosen or any(not -depth <= block < depth for block in chosen):
            raise ValueError(f"blocks must be numbers from {-depth} to {depth - 1}, at least one; got {blocks}.")
        if not power > 0 or (max_side is not None and max_side < 1):
            raise ValueError(f"power must be above 0 and max_side at least 1, got {power} and {max_side}.")
        self._used = (model,)  # a tuple, so that torch does not take the model for a part of this module
        self.blocks = sorted({block % depth for block in chosen})
        self.power, self.max_side = power, max_side

    @property
    def model(self) -> TransformerModel:
        """The transformer whose attention it is."""
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
        height, width = image.shape[-2:]
        size = snapped_size(height, width, shrink_factor(height, width, self.max_side), self.model.patch)
        seen = (to_unit(image).to(self.model.device) - self.model.mean) / self.model.std
        refined = [
            self._refined(resize(photo, size, antialias=True), maps)
            for photo, maps in zip(seen, cam.to(seen), strict=True)
        ]
        return resized(torch.stack(refined), cam.shape[-2:]).to(cam)

    def _refined(self, photo: Tensor, maps: Tensor) -> Tensor:
        """One photo of whole patches and its maps (k, h, w) -> (k, H / patch, W / patch)."""
        patch, tile, stride = self.model.patch, self.model.tile, self.model.stride
        grid = (photo.shape[-2] // patch, photo.shape[-1] // patch)
        maps = resize(maps, grid, antialias=True)
        # One more map tells which cells show the photo: what lies beyond a small one takes no part.
        scores = cut(torch.cat([maps, maps.new_ones(1, *grid)])[None], tile // patch, stride // patch)
        tiles = cut(pad_to(photo, tile, tile)[None], tile, stride)
        walked = []
        for some, own in zip(tiles.split(TILES), scores.split(TILES), strict=True):
            affinity = self.affinity(some)
            with torch.autocast(photo.device.type, enabled=False):
                walked.append(affinity @ rearrange(own, "t k h w -> t (h w) k"))
        means = rearrange(torch.cat(walked), "t (h w) k -> t k h w", h=tile // patch)
        return merge(means[:, :-1] / means[:, -1:], grid, tile // patch, stride // patch)[0]

    @torch.no_grad()
    def affinity(self, tiles: Tensor) -> Tensor:
        """Tiles (T, 3, tile, tile), normalised -> (T, N, N), how much patch i (rows) takes of patch j, as a share of
        the most it takes of any, to the power."""
        layers = [self.model.backbone.blocks[block].attn for block in self.blocks]
        with evaluating(cast(nn.Module, self.model)), patch_attention(layers, self.model.prefix) as attention:
            self.model.forward_features(tiles.to(self.model.head.weight))
        mean = attention.mean()
        return mean.div_(mean.amax(dim=-1, keepdim=True)).pow_(self.power)

    def extra_repr(self) -> str:
        return f"blocks={self.blocks}, power={self.power}, max_side={self.max_side}"
