"""mIoU of seeds at every background threshold, in one pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from crt.metrics._counts import Counts, rising_thresholds
from crt.metrics.mask_iou import check_classes, mean_iou

__all__ = ["SeedCurve", "seed_confusion", "seed_histogram"]


def seed_histogram(
    maps: Tensor, labels: Sequence[int], truth: Tensor, thresholds: Tensor, num_classes: int, *, ignore: int = 255
) -> Tensor:
    """One photo's pixels by true class, class of the highest map, and number of thresholds that this map exceeds.

    The class does not depend on the threshold, so this one histogram holds the confusion matrices of all thresholds:
    see ``seed_confusion``.

    Args:
        maps: (k, H, W) CAM in [0, 1] of the classes ``labels``.
        labels: k class indices from 0.
        truth: (H, W) integers; 0 = background, i + 1 = class i.
        thresholds: (T,) float32, rising.
        num_classes: number of foreground classes K.
        ignore: value in the truth of pixels that do not count.

    Returns:
        (K + 1, K + 1, T + 1) int64.

    Raises:
        ValueError: maps and truth differ in size, labels do not fit the maps, or the truth has a class beyond K.
    """
    classes, levels = num_classes + 1, len(thresholds) + 1
    truth = truth.long()
    if maps.shape[-2:] != truth.shape:
        raise ValueError(f"maps of {tuple(maps.shape[-2:])} do not fit a mask of {tuple(truth.shape)}.")
    counted = truth != ignore
    if not all(0 <= label < num_classes for label in labels) or len(labels) != len(maps):
        raise ValueError(f"expected {len(maps)} labels from 0 to {num_classes - 1}, got {list(labels)}.")
    check_classes("mask", truth[counted], classes)
    score, predicted = torch.full(truth.shape, -torch.inf, device=truth.device), torch.zeros_like(truth)
    for label, scores in zip(labels, maps.float(), strict=True):  # map by map: max over the first axis is much slower
        predicted.masked_fill_(scores > score, label + 1)
        score = torch.fmax(score, scores)
    exceeded = torch.bucketize(score, thresholds)
    key = (truth * classes + predicted) * levels + exceeded
    return torch.bincount(key[counted], minlength=classes**2 * levels).view(classes, classes, levels)


def seed_confusion(histogram: Tensor) -> Tensor:
    """(C, C, T + 1) histogram of ``seed_histogram`` -> (T, C, C) counts, [threshold, truth, prediction]."""
    # Foreground at threshold i: the pixels that exceed more than i thresholds; the others are background.
    above = histogram.flip(-1).cumsum(dim=-1).flip(-1)[..., 1:].permute(2, 0, 1).clone()
    above[:, :, 0] += histogram.sum(dim=(1, 2)) - above.sum(dim=-1)
    return above


class SeedCurve(Counts):
    """mIoU of seeds as a function of the background threshold, all thresholds in one pass.

    A pixel is class c if its map is the highest and exceeds the threshold.

    Args:
        num_classes: number of foreground classes K.
        thresholds: rising background scores, 0 to 1.
        ignore: value in the truth of pixels that do not count.
    """

    thresholds: Tensor
    counts: Tensor

    def __init__(self, num_classes: int, thresholds: Sequence[float], *, ignore: int = 255) -> None:
        super().__init__()
        self.register_buffer("thresholds", rising_thresholds(thresholds), persistent=False)
        self.num_classes, self.ignore = num_classes, ignore
        self.add_counts("counts", num_classes + 1, num_classes + 1, len(thresholds) + 1)
        self.add_settings(*thresholds, ignore)

    def update(self, maps: Tensor, labels: Sequence[int], truth: Tensor) -> None:
        """Adds a photo.

        Args:
            maps: (k, H, W) CAM in [0, 1] of the classes ``labels``.
            labels: k class indices from 0.
            truth: (H, W) integers; 0 = background, i + 1 = class i.

        Raises:
            ValueError: maps and truth differ in size, or the truth has a class beyond K.
        """
        maps, truth = maps.to(self.device), truth.to(self.device)
        self.counts += seed_histogram(maps, labels, truth, self.thresholds, self.num_classes, ignore=self.ignore)

    def confusion(self) -> Tensor:
        """(T, K + 1, K + 1) counts, [threshold, truth, prediction], of all processes."""
        with self.sync_context():
            return seed_confusion(self.counts)

    def compute(self) -> Tensor:
        """(T,) mean IoU over the K + 1 classes that occur, in [0, 1]; of one threshold, a scalar."""
        return mean_iou(seed_confusion(self.counts))

    def best(self) -> tuple[float, float]:
        """(threshold, mIoU) of the highest point of the curve."""
        curve = self.compute().view(-1)
        place = int(curve.argmax())
        return float(self.thresholds[place]), float(curve[place])
