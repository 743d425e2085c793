"""What the stages learn by: class labels with two coupled branches, pseudo masks, and pairs of cells."""

from crt.losses.boundary import boundary_loss
from crt.losses.coupling import dual_loss
from crt.losses.masks import mask_loss

__all__ = [
    "boundary_loss",
    "dual_loss",
    "mask_loss",
]
