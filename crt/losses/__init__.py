"""What the stages learn by: class labels with two coupled branches, and pseudo masks."""

from crt.losses.coupling import DualLoss, coupling_distance, dual_loss
from crt.losses.masks import mask_loss, sample_masks

__all__ = ["DualLoss", "coupling_distance", "dual_loss", "mask_loss", "sample_masks"]
