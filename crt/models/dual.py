"""Both branches as one training model (paper section 3.3); their loss is ``crt.losses.dual_loss``."""

from typing import Any

import torch
from torch import Tensor, nn

from crt.losses import dual_loss
from crt.losses.coupling import DualLoss

__all__ = ["DualBranch"]


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
