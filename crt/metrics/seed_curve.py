"""mIoU of seeds at every background threshold, in one pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from crt.metrics._counts import Counts, rising_thresholds
from crt.metrics.mask_iou import check_classes, mean_iou

__all__ = ["SeedCurve", "seed_confusion", "seed_histogram"]


def seed_histogram(
    maps: Tensor,
    labels: Sequence[int],
    target: Tensor,
    thresholds: Tensor,
    num_classes: int,
    *,
    ignore_index: int = 255,
) -> Tensor:
    """Counts one image's pixels by true class, class of the highest map, and number of thresholds that map exceeds.

    The class does not depend on the threshold, so this one histogram holds the confusion matrices of all thresholds:
    see ``seed_confusion``.

    Args:
        maps: (k, H, W) CAM in [0, 1] of the classes ``labels``.
        labels: k class indices from 0.
        target: (H, W) integers; 0 = background, i + 1 = class i.
        thresholds: (T,) float32, rising.
        num_classes: K, without background.
        ignore_index: value of target pixels that do not count.

    Returns:
        (K + 1, K + 1, T + 1) int64.

    Raises:
        ValueError: maps and target differ in size, a map has NaN or infinite values, labels do not fit the maps, or
            the target has a class beyond K.
    """
    size, levels = num_classes + 1, len(thresholds) + 1
    target = target.long()
    if maps.shape[-2:] != target.shape:
        raise ValueError(f"maps of {tuple(maps.shape[-2:])} do not fit a target of {tuple(target.shape)}.")
    if not torch.isfinite(maps).all():
        raise ValueError("the maps have NaN or infinite values.")
    counted = target != ignore_index
    if not all(0 <= label < num_classes for label in labels) or len(labels) != len(maps):
        raise ValueError(f"expected {len(maps)} labels from 0 to {num_classes - 1}, got {list(labels)}.")
    check_classes("target", target[counted], num_classes)
    score, preds = torch.full(target.shape, -torch.inf, device=target.device), torch.zeros_like(target)
    for label, scores in zip(labels, maps.float(), strict=True):  # map by map: max over the first axis is much slower
        preds.masked_fill_(scores > score, label + 1)
        score = torch.fmax(score, scores)
    exceeded = torch.bucketize(score, thresholds)
    key = (target * size + preds) * levels + exceeded
    return torch.bincount(key[counted], minlength=size**2 * levels).view(size, size, levels)


def seed_confusion(histogram: Tensor) -> Tensor:
    """(C, C, T + 1) histogram of ``seed_histogram`` -> (T, C, C) counts, [threshold, target, preds]."""
    # Foreground at threshold i: the pixels that exceed more than i thresholds; the others are background.
    above = histogram.flip(-1).cumsum(dim=-1).flip(-1)[..., 1:].permute(2, 0, 1).clone()
    above[:, :, 0] += histogram.sum(dim=(1, 2)) - above.sum(dim=-1)
    return above


class SeedCurve(Counts):
    """mIoU of seeds as a function of the background threshold, all thresholds in one pass.

    A pixel is class c if its map is the highest and exceeds the threshold.

    Args:
        num_classes: K, without background.
        thresholds: rising background scores, 0 to 1.
        ignore_index: value of target pixels that do not count.

    >>> metric = SeedCurve(num_classes=2, thresholds=[0.25, 0.75])
    >>> maps = torch.tensor([[[0.9, 0.5, 0.1]]])
    >>> metric.update(maps, labels=[1], target=torch.tensor([[2, 2, 0]]))
    >>> metric.compute().tolist(), metric.best()
    ([1.0, 0.5], (0.25, 1.0))
    """

    thresholds: Tensor
    counts: Tensor

    def __init__(self, num_classes: int, thresholds: Sequence[float], *, ignore_index: int = 255) -> None:
        super().__init__()
        self.register_buffer("thresholds", rising_thresholds(thresholds), persistent=False)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.add_counts("counts", num_classes + 1, num_classes + 1, len(thresholds) + 1)
        self.add_settings(*thresholds, ignore_index)

    def update(self, maps: Tensor, labels: Sequence[int], target: Tensor) -> None:
        """Adds an image.

        Args:
            maps: (k, H, W) CAM in [0, 1] of the classes ``labels``.
            labels: k class indices from 0.
            target: (H, W) integers; 0 = background, i + 1 = class i.

        Raises:
            ValueError: maps and target differ in size, a map has NaN or infinite values, or the target has a class
                beyond K.
        """
        maps, target = maps.to(self.device), target.to(self.device)
        settings = {"ignore_index": self.ignore_index}
        self.counts += seed_histogram(maps, labels, target, self.thresholds, self.num_classes, **settings)

    def confusion(self) -> Tensor:
        """(T, K + 1, K + 1) counts, [threshold, target, preds], of all processes."""
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
