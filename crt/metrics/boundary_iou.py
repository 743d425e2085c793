"""Boundary IoU (Cheng et al., "Boundary IoU", CVPR 2021): how well outlines agree, whatever the size of the object."""

import torch
from torch import Tensor
from torch.nn import functional as F

from crt.metrics._counts import Counts
from crt.metrics.mask_iou import confusion_matrix

__all__ = ["BoundaryIoU", "boundary_counts", "boundary_pixels"]


def boundary_pixels(mask: Tensor, *, ratio: float = 0.02) -> Tensor:
    """The pixels of each class within d of another class or of the picture's border.

    The distance is that of a square window, as in the authors' erosions; d = ``ratio`` of the picture's diagonal,
    rounded, at least one pixel.

    Args:
        mask: (H, W) integers, not negative.
        ratio: d as a share of the diagonal.

    Returns:
        (H, W) bool.
    """
    height, width = mask.shape
    reach = max(1, round(ratio * (height**2 + width**2) ** 0.5))
    padded = F.pad(mask.double()[None, None], (reach,) * 4, value=-1.0)  # beyond the border is another class

    def highest(values: Tensor) -> Tensor:
        side = 2 * reach + 1
        return F.max_pool2d(F.max_pool2d(values, (side, 1), stride=1), (1, side), stride=1)[0, 0]

    return (highest(padded) > mask) | (-highest(-padded) < mask)


def boundary_counts(
    prediction: Tensor, truth: Tensor, classes: int, *, ratio: float = 0.02, ignore: int = 255
) -> Tensor:
    """Intersection and union of the classes' boundary pixels in one photo.

    Where the truth is to be ignored the prediction is as well, before boundaries are taken: a prediction that is right
    everywhere else then scores 1.

    Args:
        prediction: (H, W) integers from 0 to C - 1 where the truth counts.
        truth: (H, W) integers from 0 to C - 1, or ``ignore``.
        classes: C, background included.
        ratio: see ``boundary_pixels``.
        ignore: value in the truth of pixels that do not count.

    Returns:
        (2, C) int64.

    Raises:
        ValueError: the shapes differ, or a class is beyond C - 1.
    """
    confusion_matrix(prediction, truth, classes, ignore=ignore)  # for its checks
    truth = truth.long()
    counted, inner = truth != ignore, truth.new_tensor(classes)
    both = torch.where(counted, prediction.long(), ignore), truth
    predicted, true = (torch.where(boundary_pixels(mask, ratio=ratio), mask, inner)[counted] for mask in both)
    # What is to be ignored is left out already: none is -1.
    counts = confusion_matrix(predicted, true, classes + 1, ignore=-1)
    hits = counts.diagonal()
    return torch.stack([hits, counts.sum(dim=0) + counts.sum(dim=1) - hits])[:, :classes]


class BoundaryIoU(Counts):
    """Boundary IoU (Cheng et al., CVPR 2021) of masks of classes: counts are summed over all photos, class by class.

    Args:
        num_classes: number of foreground classes K; masks hold 0 = background to K.
        ratio: how far from an outline counts, as a share of the photo's diagonal.
        ignore: value in the truth of pixels that do not count.
    """

    counts: Tensor

    def __init__(self, num_classes: int, *, ratio: float = 0.02, ignore: int = 255) -> None:
        super().__init__()
        if not 0 < ratio < 1:
            raise ValueError(f"ratio must be above 0 and below 1, got {ratio}.")
        self.classes, self.ratio, self.ignore = num_classes + 1, ratio, ignore
        self.add_counts("counts", 2, self.classes)
        self.add_settings(ratio, ignore)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Adds a photo: (H, W) integers each, as in ``boundary_counts``."""
        prediction, truth = prediction.to(self.device), truth.to(self.device)
        self.counts += boundary_counts(prediction, truth, self.classes, ratio=self.ratio, ignore=self.ignore)

    def compute(self) -> dict[str, Tensor]:
        """``iou``, (K + 1,), NaN for a class that does not occur; ``miou``, the mean over those that do."""
        iou = self.counts[0].double() / self.counts[1]
        return {"miou": iou.nanmean(), "iou": iou}
