"""What the stages learn by: class labels with two coupled branches, pseudo masks, and pairs of cells."""

from crt.losses.boundary import BoundaryLoss, PairKinds, affinity_loss, boundary_loss, displacement_loss, pair_kinds
from crt.losses.coupling import DualLoss, coupling_distance, dual_loss
from crt.losses.masks import mask_loss, sample_masks

__all__ = [
    "BoundaryLoss",
    "DualLoss",
    "PairKinds",
    "affinity_loss",
    "boundary_loss",
    "coupling_distance",
    "displacement_loss",
    "dual_loss",
    "mask_loss",
    "pair_kinds",
    "sample_masks",
]
