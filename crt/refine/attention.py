"""Attention affinity: a patch's score becomes a mean of the scores of the patches that it attends to.

The transformer's patch-to-patch attention refines CAMs in MCTformer (Xu et al., CVPR 2022) and TransCAM (Li et al.,
2022).  Departures: a mean over chosen blocks and all passes; photos are seen as for the CAM, whole or in overlapping
tiles; rows sum to one, so that a flat map stays as it is.
"""

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from crt.cam.attention import evaluating, patch_attention
from crt.cam.protocol import TransformerModel
from crt.cam.tiling import cut
from crt.refine.transformer import TILES, TransformerRefiner

__all__ = ["AttentionAffinity"]


class AttentionAffinity(TransformerRefiner):
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
        depth = len(model.backbone.blocks)
        chosen = range((depth + 1) // 2) if blocks is None else blocks
        if not chosen or any(not -depth <= block < depth for block in chosen):
            raise ValueError(f"blocks must be numbers from {-depth} to {depth - 1}, at least one; got {blocks}.")
        if not power > 0 or (max_side is not None and max_side < 1):
            raise ValueError(f"power must be above 0 and max_side at least 1, got {power} and {max_side}.")
        super().__init__(model, max_side)
        self.blocks = sorted({block % depth for block in chosen})
        self.power = power

    def refine_patches(self, photo: Tensor, maps: Tensor) -> Tensor:
        """A normalized photo of whole patches, (3, H, W), and maps (k, H / patch, W / patch) -> refined maps."""
        view = self.view(photo)
        _, tile, stride = view.in_patches
        # One more map tells which cells show the photo: what lies beyond a small one takes no part.
        scores = cut(torch.cat([maps, maps.new_ones(1, *maps.shape[-2:])])[None], tile, stride)
        walked = []
        for some, own in zip(torch.stack([*view.cut(photo)]).split(TILES), scores.split(TILES), strict=True):
            affinity = self.affinity(some)
            with torch.autocast(photo.device.type, enabled=False):
                walked.append(affinity @ rearrange(own, "t k h w -> t (h w) k"))
        means = rearrange(torch.cat(walked), "t (h w) k -> t k h w", h=tile[0])
        return view.merge(means[:, :-1] / means[:, -1:])

    @torch.no_grad()
    def affinity(self, tiles: Tensor) -> Tensor:
        """Tiles (T, 3, H, W), normalized -> (T, N, N): attention from i (rows) to j, divided by the row maximum, raised
        to ``power``."""
        layers = [self.model.backbone.blocks[block].attn for block in self.blocks]
        with evaluating(cast(nn.Module, self.model)), patch_attention(layers, self.model.prefix) as attention:
            self.model.forward_features(tiles.to(self.model.head.weight))
        mean = attention.mean()
        return mean.div_(mean.amax(dim=-1, keepdim=True)).pow_(self.power)

    def extra_repr(self) -> str:
        return f"blocks={self.blocks}, power={self.power}, max_side={self.max_side}"
