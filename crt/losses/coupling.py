"""The loss of both branches, trained together and pulled towards each other (paper section 3.3, equations 5 to 7)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from crt.cam.functional import pool_maps

__all__ = ["DualLoss", "coupling_distance", "dual_loss"]


class DualLoss(NamedTuple):
    """Scalars: ``total`` = ``vit`` + ``cnn`` + coupling weight * ``coupling``."""

    total: Tensor
    vit: Tensor
    cnn: Tensor
    coupling: Tensor


def dual_loss(
    vit_maps: Tensor,
    cnn_maps: Tensor | None,
    targets: Tensor,
    size: tuple[int, int],
    *,
    coupling: float = 0.1,
    pool: float = 1.0,
    single_label: bool = False,
) -> DualLoss:
    """A classification loss on each branch + ``coupling`` (the paper's lambda) * the distance of the maps.

    Args:
        vit_maps, cnn_maps: (B, K, h, w) raw class maps of the two branches, each on its own grid; no CNN: None.
        targets: (B, K) multi-hot.
        size: (H, W) of the image, in pixels.
        coupling: 0 is independent training; the paper uses 0 in the first epoch, then 0.1.
        pool: share of the ViT's map that makes its logits (see ``CRT``).
        single_label: softmax cross entropy, for photos of one class each (localization), instead of multilabel soft
            margin.
    """
    targets = targets.to(torch.float32)
    classify = F.cross_entropy if single_label else F.multilabel_soft_margin_loss
    vit_loss = classify(pool_maps(vit_maps.float(), pool), targets)
    if cnn_maps is None:
        zero = torch.zeros_like(vit_loss)
        return DualLoss(vit_loss, vit_loss, zero, zero)
    cnn_loss = classify(cnn_maps.float().mean(dim=(-2, -1)), targets)
    distance = coupling_distance(vit_maps, cnn_maps, size) if coupling else torch.zeros_like(vit_loss)
    return DualLoss(vit_loss + cnn_loss + coupling * distance, vit_loss, cnn_loss, distance)


def coupling_distance(a: Tensor, b: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean absolute difference of two raw maps after bilinear upsampling to ``size`` (align_corners=True), equation 6.

    Upsampling is linear: maps on the same grid are subtracted first and upsampled once.
    """
    if a.shape == b.shape:
        return _upsample(a.float() - b.float(), size).abs().mean()
    return (_upsample(a.float(), size) - _upsample(b.float(), size)).abs().mean()


def _upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=True)
