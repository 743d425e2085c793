"""Intersection over union of masks, and of seeds at every background threshold in one pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["SeedCurve", "iou_per_class", "mean_iou"]


def iou_per_class(confusion: Tensor) -> Tensor:
    """Intersection over union from confusion counts.

    Args:
        confusion: (..., C, C) counts, [truth, prediction].

    Returns:
        (..., C) float64; NaN for a class that neither truth nor prediction holds.

    >>> iou_per_class(torch.tensor([[3, 1], [0, 4]]))
    tensor([0.7500, 0.8000], dtype=torch.float64)
    """
    hits = confusion.diagonal(dim1=-2, dim2=-1).double()
    return hits / (confusion.sum(dim=-1) + confusion.sum(dim=-2) - hits)


def mean_iou(confusion: Tensor) -> Tensor:
    """The mean over the classes that occur (nanmean, as is usual on VOC), background included: (..., C, C) -> (...)."""
    return iou_per_class(confusion).nanmean(dim=-1)


class SeedCurve:
    """mIoU of seeds as a function of the background threshold.

    A pixel is class c if its map is the highest and exceeds the threshold.  The class does not depend on the threshold,
    so one histogram over (truth, class, number of thresholds exceeded) holds the confusion matrices of all thresholds.

    Args:
        num_classes: number of foreground classes K.
        thresholds: rising background scores, 0 to 1.
        ignore: value in the truth of pixels that do not count.
    """

    def __init__(self, num_classes: int, thresholds: Sequence[float], *, ignore: int = 255) -> None:
        self.thresholds = torch.tensor(thresholds, dtype=torch.float32)
        if self.thresholds.numel() == 0 or (self.thresholds.diff() <= 0).any():
            raise ValueError(f"thresholds must be rising, got {list(thresholds)}.")
        self.classes, self.ignore = num_classes + 1, ignore
        self.counts = torch.zeros(self.classes, self.classes, len(thresholds) + 1, dtype=torch.int64)

    def update(self, maps: Tensor, labels: Sequence[int], truth: Tensor) -> None:
        """Adds a photo.

        Args:
            maps: (k, H, W) CAM in [0, 1] of the classes ``labels``.
            labels: k class indices from 0.
            truth: (H, W) integers; 0 = background, i + 1 = class i.

        Raises:
            ValueError: maps and truth differ in size, or the truth has a class beyond K.
        """
        truth = truth.long().cpu()
        if maps.shape[-2:] != truth.shape:
            raise ValueError(f"maps of {tuple(maps.shape[-2:])} do not fit a mask of {tuple(truth.shape)}.")
        counted = truth != self.ignore
        if not all(0 <= label < self.classes - 1 for label in labels) or len(labels) != len(maps):
            raise ValueError(f"expected {len(maps)} labels from 0 to {self.classes - 2}, got {list(labels)}.")
        if ((truth < 0) | (truth >= self.classes))[counted].any():
            found = truth[counted].unique().tolist()
            raise ValueError(f"the mask has classes {found}; with {self.classes - 1} of them they are 0 to that.")
        if len(labels):
            score, best = maps.cpu().float().max(dim=0)
            predicted = torch.tensor([i + 1 for i in labels])[best]
        else:
            score, predicted = torch.zeros(truth.shape), torch.zeros_like(truth)
        exceeded = torch.searchsorted(self.thresholds, score.contiguous())
        levels = len(self.thresholds) + 1
        key = (truth * self.classes + predicted) * levels + exceeded
        self.counts += torch.bincount(key[counted], minlength=self.counts.numel()).view(self.counts.shape)

    def confusion(self) -> Tensor:
        """(T, K + 1, K + 1) counts, [threshold, truth, prediction]."""
        # Foreground at threshold i: the pixels that exceed more than i thresholds; the others are background.
        above = self.counts.flip(-1).cumsum(dim=-1).flip(-1)[..., 1:].permute(2, 0, 1).clone()
        below = self.counts.sum(dim=(1, 2)) - above.sum(dim=-1)
        above[:, :, 0] += below
        return above

    def compute(self) -> Tensor:
        """(T,) mean IoU over the K + 1 classes that occur, in [0, 1]."""
        return mean_iou(self.confusion())

    def best(self) -> tuple[float, float]:
        """(threshold, mIoU) of the highest point of the curve."""
        curve = self.compute()
        place = int(curve.argmax())
        return float(self.thresholds[place]), float(curve[place])
