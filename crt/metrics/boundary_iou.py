"""Boundary IoU (Cheng et al., "Boundary IoU", CVPR 2021): how well outlines agree, whatever the size of the object."""

import torch
from torch import Tensor
from torch.nn import functional as F

from crt.metrics._counts import Counts
from crt.metrics.mask_iou import confusion_matrix

__all__ = ["BoundaryIoU", "boundary_counts", "boundary_pixels"]


def boundary_pixels(mask: Tensor, *, ratio: float = 0.02) -> Tensor:
    """Finds the pixels of each class within d of another class or of the image border.

    The distance is that of a square window, as in the authors' erosions; d = ``ratio`` of the image diagonal, rounded,
    at least one pixel.

    Args:
        mask: (H, W) integers, not negative.
        ratio: d as a share of the diagonal.

    Returns:
        (H, W) bool.

    >>> boundary_pixels(torch.ones(3, 4, dtype=torch.long)).int()
    tensor([[1, 1, 1, 1],
            [1, 0, 0, 1],
            [1, 1, 1, 1]], dtype=torch.int32)
    """
    height, width = mask.shape
    reach = max(1, round(ratio * (height**2 + width**2) ** 0.5))
    padded = F.pad(mask.double()[None, None], (reach,) * 4, value=-1.0)  # beyond the border is another class

    def highest(values: Tensor) -> Tensor:
        side = 2 * reach + 1
        return F.max_pool2d(F.max_pool2d(values, (side, 1), stride=1), (1, side), stride=1)[0, 0]

    return (highest(padded) > mask) | (-highest(-padded) < mask)


def boundary_counts(
    preds: Tensor, target: Tensor, num_classes: int, *, ratio: float = 0.02, ignore_index: int = 255
) -> Tensor:
    """Counts intersection and union of the classes' boundary pixels in one image.

    Where the target is ignored the prediction is as well, before boundaries are taken: a prediction that is right
    everywhere else then scores 1.

    Args:
        preds: (H, W) integers from 0 to K wherever the target counts.
        target: (H, W) integers from 0 to K, or ``ignore_index``.
        num_classes: K, without background.
        ratio: see ``boundary_pixels``.
        ignore_index: value of target pixels that do not count.

    Returns:
        (2, K + 1) int64.

    Raises:
        ValueError: the shapes differ, or a class is beyond K.
    """
    confusion_matrix(preds, target, num_classes, ignore_index=ignore_index)  # for its checks
    target = target.long()
    counted, inner = target != ignore_index, target.new_tensor(num_classes + 1)
    both = torch.where(counted, preds.long(), ignore_index), target
    seen, true = (torch.where(boundary_pixels(mask, ratio=ratio), mask, inner)[counted] for mask in both)
    # Ignored pixels are left out already: none is -1.
    counts = confusion_matrix(seen, true, num_classes + 1, ignore_index=-1)
    hits = counts.diagonal()
    return torch.stack([hits, counts.sum(dim=0) + counts.sum(dim=1) - hits])[:, :-1]


class BoundaryIoU(Counts):
    """Boundary IoU of masks of classes: counts are summed over all images, class by class.

    Args:
        num_classes: K, without background.
        ratio: how far from an outline counts, as a share of the image diagonal.
        ignore_index: value of target pixels that do not count.

    >>> target = torch.zeros(20, 20, dtype=torch.long)
    >>> target[5:15, 5:15] = 1
    >>> metric = BoundaryIoU(num_classes=1)
    >>> metric.update(target.roll(1, dims=0), target)
    >>> metric.compute()["iou"].round(decimals=2).tolist()
    [0.69, 0.33]
    """

    counts: Tensor

    def __init__(self, num_classes: int, *, ratio: float = 0.02, ignore_index: int = 255) -> None:
        super().__init__()
        if not 0 < ratio < 1:
            raise ValueError(f"ratio must be above 0 and below 1, got {ratio}.")
        self.num_classes, self.ratio, self.ignore_index = num_classes, ratio, ignore_index
        self.add_counts("counts", 2, num_classes + 1)
        self.add_settings(ratio, ignore_index)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds an image: (H, W) integers each, as in ``boundary_counts``."""
        preds, target = preds.to(self.device), target.to(self.device)
        self.counts += boundary_counts(
            preds, target, self.num_classes, ratio=self.ratio, ignore_index=self.ignore_index
        )

    def compute(self) -> dict[str, Tensor]:
        """``iou``, (K + 1,), NaN for a class that does not occur; ``miou``, the mean over those that do."""
        iou = self.counts[0].double() / self.counts[1]
        return {"miou": iou.nanmean(), "iou": iou}
