"""The metrics as torchmetrics Metrics: they hold counts, the functions beside them do the arithmetic.

Every state is a sum of counts (of ``MultilabelAP``: the scores themselves), so that parts of a list may be measured by
several processes; ``compute`` then gives each the result of the whole.  Where a result has a single number torchmetrics
makes it a scalar, whatever its shape.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from crt.metrics.boundary import boundary_counts
from crt.metrics.boxes import best_overlaps
from crt.metrics.ranking import as_rankings, average_precision
from crt.metrics.segmentation import (
    confusion_matrix,
    error_rates,
    iou_per_class,
    mean_iou,
    seed_confusion,
    seed_histogram,
)

__all__ = ["BoundaryIoU", "BoxCurve", "Localisation", "MaskIoU", "MultilabelAP", "SeedCurve"]


class _Counts(Metric):
    """What the metrics here share: nothing to differentiate, an update does not depend on those before it."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def _add_counts(self, name: str, *size: int) -> None:
        self.add_state(name, torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    def _add_settings(self, *values: float) -> None:
        """Settings as a state: a ``MetricCollection`` takes metrics of equal states for one."""
        self.add_state("settings", torch.tensor(values, dtype=torch.float64), dist_reduce_fx="max")


class MaskIoU(_Counts):
    """Intersection over union of masks, with false positives and false negatives.

    Args:
        num_classes: number of foreground classes K; masks hold 0 = background to K.
        ignore: value in the truth of pixels that do not count.

    >>> metric = MaskIoU(1)
    >>> metric.update(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 255]]))
    >>> metric.compute()["iou"].tolist()
    [0.5, 0.5]
    """

    confusion: Tensor

    def __init__(self, num_classes: int, *, ignore: int = 255) -> None:
        super().__init__()
        self.classes, self.ignore = num_classes + 1, ignore
        self._add_counts("confusion", self.classes, self.classes)
        self._add_settings(ignore)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Adds masks: (..., H, W) integers each, as in ``confusion_matrix``."""
        prediction, truth = prediction.to(self.device), truth.to(self.device)
        self.confusion += confusion_matrix(prediction, truth, self.classes, ignore=self.ignore)

    def compute(self) -> dict[str, Tensor]:
        """``miou``, the mean over classes that occur; ``iou``, ``fp`` and ``fn`` (``error_rates``), (K + 1,) each."""
        fp, fn = error_rates(self.confusion)
        return {"miou": mean_iou(self.confusion), "iou": iou_per_class(self.confusion), "fp": fp, "fn": fn}


class BoundaryIoU(_Counts):
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
        self._add_counts("counts", 2, self.classes)
        self._add_settings(ratio, ignore)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Adds a photo: (H, W) integers each, as in ``boundary_counts``."""
        prediction, truth = prediction.to(self.device), truth.to(self.device)
        self.counts += boundary_counts(prediction, truth, self.classes, ratio=self.ratio, ignore=self.ignore)

    def compute(self) -> dict[str, Tensor]:
        """``iou``, (K + 1,), NaN for a class that does not occur; ``miou``, the mean over those that do."""
        iou = self.counts[0].double() / self.counts[1]
        return {"miou": iou.nanmean(), "iou": iou}


class SeedCurve(_Counts):
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
        self.register_buffer("thresholds", _rising(thresholds), persistent=False)
        self.num_classes, self.ignore = num_classes, ignore
        self._add_counts("counts", num_classes + 1, num_classes + 1, len(thresholds) + 1)
        self._add_settings(*thresholds, ignore)

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


class MultilabelAP(Metric):
    """Mean average precision of image-level scores over classes; see ``average_precision``.

    The scores of all photos are kept, K numbers a photo: this average cannot be had from sums.  Of several processes
    each needs a photo.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    targets: list[Tensor]
    counted: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("scores", "targets", "counted"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, targets: Tensor, counted: Tensor | None = None) -> None:
        """Adds photos: (B, K) each; ``counted`` false leaves a photo out for a class (VOC's difficult labels)."""
        scores, targets, counted = as_rankings(scores, targets, counted)
        self.scores.append(scores.to(self.device))
        self.targets.append(targets.to(self.device))
        self.counted.append(counted.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """``ap``, (K,), NaN for a class that no photo shows; ``map``, the mean over the others."""
        if not len(self.scores):
            raise ValueError("average precision of no photos: update comes first.")
        # Before several processes gather their lists, torchmetrics joins each of them to one tensor.
        lists = (self.scores, self.targets, self.counted)
        scores, targets, counted = (value if isinstance(value, Tensor) else torch.cat(value) for value in lists)
        ap = average_precision(scores, targets, counted)
        return {"map": ap.nanmean(), "ap": ap}


class Localisation(_Counts):
    """Top-1 and Top-5 localisation and GT-known at a given threshold, for photos of one class each.

    A photo is localised if the box around the largest component of the map of its true class overlaps one of its true
    boxes at IoU ``iou`` or more (GT-known), and its class is among the k highest of the model's own classification
    (Top-k).  Classes that score the same as the true one stand before it.

    Args:
        threshold: share of the map's range, from its lowest value to its highest, that belongs to the object.
        iou: overlap that counts as found.
    """

    threshold: Tensor
    hits: Tensor
    photos: Tensor
    names = ("gt_known", "top1_loc", "top5_loc", "top1_cls", "top5_cls")

    def __init__(self, threshold: float, *, iou: float = 0.5) -> None:
        super().__init__()
        if not (0 <= threshold <= 1 and 0 < iou <= 1):
            raise ValueError(f"threshold must be 0 to 1 and iou above 0 to 1, got {threshold} and {iou}.")
        self.register_buffer("threshold", torch.tensor([threshold]), persistent=False)
        self.iou = iou
        self._add_counts("hits", len(self.names))
        self._add_counts("photos")
        self._add_settings(threshold, iou)

    def update(self, cam: Tensor, truth: Tensor, logits: Tensor, label: int) -> None:
        """Adds a photo.

        Args:
            cam: (H, W), the map of the true class.
            truth: (m, 4) boxes, XYXY in pixels of the map; see ``crt.metrics.boxes``.
            logits: (K,) of the model.
            label: the true class.

        Raises:
            ValueError: not a map, not boxes, NaN logits, or a label beyond K - 1.
        """
        if logits.ndim != 1 or not 0 <= label < len(logits):
            raise ValueError(f"expected (K,) logits and a label below K, got {tuple(logits.shape)} and {label}.")
        if logits.isnan().any():
            raise ValueError("the logits have NaN values.")
        overlap, _ = best_overlaps(cam.to(self.device), truth.to(self.device), self.threshold)
        found = bool(overlap[0] >= self.iou)
        rank = int((logits >= logits[label]).sum()) - 1
        outcome = [found, found and rank < 1, found and rank < 5, rank < 1, rank < 5]
        self.hits += torch.tensor(outcome, device=self.device)
        self.photos += 1

    def compute(self) -> dict[str, Tensor]:
        """Shares of the photos, in [0, 1], by ``names``: localisation (loc) and classification (cls)."""
        return dict(zip(self.names, self.hits.double() / self.photos, strict=True))


class BoxCurve(_Counts):
    """MaxBoxAcc and MaxBoxAccV2 (Choe et al., CVPR 2020), and the curves over thresholds that they are the peaks of.

    A photo's box is right if it overlaps one of the true boxes at the IoU or more.  MaxBoxAcc takes the box of the
    largest component, V2 the best of all components' boxes and the mean over the IoUs; both the threshold that is best
    on the list.

    Args:
        thresholds: rising, 0 to 1, of maps brought to [0, 1]; None takes 0, 0.01, ..., 0.99.
        ious: overlaps that count as found.
    """

    thresholds: Tensor
    ious: Tensor
    largest: Tensor
    every: Tensor
    photos: Tensor

    def __init__(self, thresholds: Sequence[float] | None = None, *, ious: Sequence[float] = (0.3, 0.5, 0.7)) -> None:
        super().__init__()
        thresholds = [i / 100 for i in range(100)] if thresholds is None else thresholds
        self.register_buffer("thresholds", _rising(thresholds), persistent=False)
        if not ious or not all(0 < iou <= 1 for iou in ious):
            raise ValueError(f"ious must be above 0 to 1, got {list(ious)}.")
        self.register_buffer("ious", torch.tensor(ious, dtype=torch.float64), persistent=False)
        for name in ("largest", "every"):
            self._add_counts(name, len(thresholds), len(ious))
        self._add_counts("photos")
        self._add_settings(*thresholds, *ious)

    def update(self, cam: Tensor, truth: Tensor) -> None:
        """Adds a photo: (H, W), the map of its true class, and (m, 4) boxes, XYXY in pixels of the map."""
        largest, every = best_overlaps(cam.to(self.device), truth.to(self.device), self.thresholds)
        self.largest += largest[:, None] >= self.ious
        self.every += every[:, None] >= self.ious
        self.photos += 1

    def compute(self) -> dict[str, Tensor]:
        """Shares of the photos, in [0, 1].

        ``max_box_acc`` (D,) at each of the IoUs and ``max_box_acc_v2``; ``threshold`` (D,), where the first is reached;
        ``box_acc`` and ``box_acc_v2`` (T, D), the curves.
        """
        box_acc, box_acc_v2 = self.largest.double() / self.photos, self.every.double() / self.photos
        highest = box_acc.max(dim=0)
        return {
            "max_box_acc": highest.values,
            "max_box_acc_v2": box_acc_v2.amax(dim=0).mean(),
            "threshold": self.thresholds[highest.indices],
            "box_acc": box_acc,
            "box_acc_v2": box_acc_v2,
        }


def _rising(thresholds: Sequence[float]) -> Tensor:
    values = torch.tensor(thresholds, dtype=torch.float32)
    if values.numel() == 0 or not ((values >= 0) & (values <= 1)).all() or not (values.diff() > 0).all():
        raise ValueError(f"thresholds must be rising, 0 to 1, got {list(thresholds)}.")
    return values
