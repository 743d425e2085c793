"""Both branches under one loss: the training model (paper section 3.3, equations 5 to 7)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crt.cam.functional import pooled

__all__ = ["DualBranch", "DualLoss", "coupling_distance", "dual_loss"]


class DualLoss(NamedTuple):
    """Scalars: ``total`` = ``vit`` + ``cnn`` + coupling weight * ``coupling``."""

    total: Tensor
    vit: Tensor
    cnn: Tensor
    coupling: Tensor


class DualBranch(nn.Module):
    """The ViT branch and the CNN branch, trained on the same labels and pulled together.

    Args:
        vit: the branch that is kept for inference (``CRT``).
        cnn: the branch that makes it precise (``CNNBranch``), or None for the ablation without one.
    """

    vit: Any
    cnn: Any

    def __init__(self, vit: nn.Module, cnn: nn.Module | None) -> None:
        super().__init__()
        self.vit, self.cnn = vit, cnn
        self.register_buffer("scale", None, persistent=False)
        self.register_buffer("shift", None, persistent=False)
        if self.cnn is not None and (list(self.cnn.mean), list(self.cnn.std)) != self._vit_statistics():
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.cnn.mean, self.cnn.std))
            self.scale, self.shift = self.vit.std.cpu() / std, (self.vit.mean.cpu() - mean) / std

    def _vit_statistics(self) -> tuple[list[float], list[float]]:
        return self.vit.config["mean"], self.vit.config["std"]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, H, W), normalised for the ViT -> raw class maps of both, (B, K, h, w) each on its own grid."""
        vit_maps = self.vit.forward_maps(x)
        if self.cnn is None:
            return vit_maps, None
        return vit_maps, self.cnn.forward_maps(x if self.scale is None else x * self.scale + self.shift)

    def loss(self, x: Tensor, targets: Tensor, *, coupling: float = 0.1) -> DualLoss:
        """``dual_loss`` of the maps of (B, 3, H, W) normalised floats."""
        vit_maps, cnn_maps = self(x)
        return dual_loss(vit_maps, cnn_maps, targets, (x.shape[-2], x.shape[-1]), coupling=coupling, pool=self.vit.pool)


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
        single_label: softmax cross entropy, for photos of one class each (localisation), instead of multilabel soft
            margin.
    """
    targets = targets.to(torch.float32)
    classify = F.cross_entropy if single_label else F.multilabel_soft_margin_loss
    vit_loss = classify(pooled(vit_maps.float(), pool), targets)
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
