"""Both branches under one loss: the training model (paper section 3.3, equations 5 to 7)."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DualBranch", "DualLoss", "coupling_distance"]


class MapBranch(Protocol):
    """A network that turns (B, 3, H, W) into (B, K, h, w) raw class maps, whose mean is the logit."""

    def forward_maps(self, x: Tensor) -> Tensor: ...


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

    def __init__(self, vit: nn.Module, cnn: nn.Module | None) -> None:
        super().__init__()
        self.vit, self.cnn = vit, cnn

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, H, W) -> the raw class maps of both branches, (B, K, h, w) each on its own grid."""
        return self.vit.forward_maps(x), None if self.cnn is None else self.cnn.forward_maps(x)  # type: ignore[operator]

    def loss(self, x: Tensor, targets: Tensor, *, coupling: float = 0.1) -> DualLoss:
        """Multilabel soft margin on each branch + ``coupling`` (the paper's lambda) * the distance of the maps.

        Args:
            x: (B, 3, H, W) normalised floats.
            targets: (B, K) multi-hot.
            coupling: 0 is independent training; the paper uses 0 in the first epoch, then 0.1.
        """
        vit_maps, cnn_maps = self(x)
        vit_loss = F.multilabel_soft_margin_loss(vit_maps.float().mean(dim=(-2, -1)), targets)
        if cnn_maps is None:
            zero = torch.zeros_like(vit_loss)
            return DualLoss(vit_loss, vit_loss, zero, zero)
        cnn_loss = F.multilabel_soft_margin_loss(cnn_maps.float().mean(dim=(-2, -1)), targets)
        distance = (
            coupling_distance(vit_maps, cnn_maps, (x.shape[-2], x.shape[-1])) if coupling else vit_loss.new_zeros(())
        )
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
