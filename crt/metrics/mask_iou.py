"""Intersection over union of masks, with false positives and false negatives.

``num_classes`` is K, the number of foreground classes, in every function here, as in the models; masks hold 0 for
background and i + 1 for class i, and counts are (K + 1, K + 1).
"""

import torch
from torch import Tensor

from crt.metrics._counts import Counts

__all__ = ["MaskIoU", "check_classes", "confusion_matrix", "error_rates", "iou_per_class", "mean_iou"]


def confusion_matrix(preds: Tensor, target: Tensor, num_classes: int, *, ignore_index: int = 255) -> Tensor:
    """Counts pixels by true and predicted class.

    Args:
        preds: (..., H, W) integers from 0 to K wherever the target counts.
        target: the same shape; integers from 0 to K, or ``ignore_index``.
        num_classes: K, without background.
        ignore_index: value of target pixels that do not count.

    Returns:
        (K + 1, K + 1) int64, [target, preds].

    Raises:
        ValueError: the shapes differ, a mask is not of integers, or a class is beyond K.

    >>> confusion_matrix(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 255]]), 1)
    tensor([[1, 1],
            [0, 0]])
    """
    if preds.shape != target.shape:
        raise ValueError(f"preds of {tuple(preds.shape)} do not fit a target of {tuple(target.shape)}.")
    if preds.is_floating_point() or target.is_floating_point():
        raise ValueError(f"masks hold integers, got {preds.dtype} and {target.dtype}.")
    counted = target.long() != ignore_index
    target, preds = target[counted].long(), preds[counted].long()
    check_classes("target", target, num_classes)
    check_classes("preds", preds, num_classes)
    size = num_classes + 1
    return torch.bincount(target * size + preds, minlength=size**2).view(size, size)


def iou_per_class(confusion: Tensor) -> Tensor:
    """Computes intersection over union from counts.

    Args:
        confusion: (..., C, C) counts, [target, preds].

    Returns:
        (..., C) float64; NaN for a class that occurs in neither.

    >>> iou_per_class(torch.tensor([[3, 1], [0, 4]]))
    tensor([0.7500, 0.8000], dtype=torch.float64)
    """
    hits, union = _hits_and_union(confusion)
    return hits / union


def mean_iou(confusion: Tensor) -> Tensor:
    """Averages IoU over the classes that occur (nanmean, as usual on VOC), background included: (..., C, C) -> (...).

    >>> mean_iou(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    tensor(0.7750, dtype=torch.float64)
    """
    return iou_per_class(confusion).nanmean(dim=-1)


def error_rates(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """Computes false positives and false negatives of each class as shares of the union.

    Papers on weak supervision report these since IRN (Ahn et al., CVPR 2019): IoU + FP + FN = 1.

    Args:
        confusion: (..., C, C) counts, [target, preds].

    Returns:
        FP and FN, (..., C) float64 each; NaN for a class that occurs in neither.

    >>> error_rates(torch.tensor([[3, 1], [0, 4]]))
    (tensor([0.0000, 0.2000], dtype=torch.float64), tensor([0.2500, 0.0000], dtype=torch.float64))
    """
    hits, union = _hits_and_union(confusion)
    return (confusion.sum(dim=-2) - hits) / union, (confusion.sum(dim=-1) - hits) / union


class MaskIoU(Counts):
    """Mean intersection over union of masks, with false positives and false negatives.

    Args:
        num_classes: K, without background.
        ignore_index: value of target pixels that do not count.

    >>> metric = MaskIoU(num_classes=1)
    >>> metric.update(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 255]]))
    >>> metric.compute()["iou"].tolist()
    [0.5, 0.5]
    """

    confusion: Tensor

    def __init__(self, num_classes: int, *, ignore_index: int = 255) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.add_counts("confusion", num_classes + 1, num_classes + 1)
        self.add_settings(ignore_index)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds masks: (..., H, W) integers each, as in ``confusion_matrix``."""
        preds, target = preds.to(self.device), target.to(self.device)
        self.confusion += confusion_matrix(preds, target, self.num_classes, ignore_index=self.ignore_index)

    def compute(self) -> dict[str, Tensor]:
        """``miou``, the mean over classes that occur; ``iou``, ``fp`` and ``fn`` (``error_rates``), (K + 1,) each."""
        fp, fn = error_rates(self.confusion)
        return {"miou": mean_iou(self.confusion), "iou": iou_per_class(self.confusion), "fp": fp, "fn": fn}


def check_classes(what: str, values: Tensor, num_classes: int) -> None:
    """Raises ValueError unless all values are 0 to ``num_classes``."""
    if values.numel() and not 0 <= values.min() <= values.max() <= num_classes:
        found = values.unique().tolist()
        shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        raise ValueError(f"{what} has the values {shown}; with {num_classes} classes they are 0 to {num_classes}.")


def _hits_and_union(confusion: Tensor) -> tuple[Tensor, Tensor]:
    hits = confusion.diagonal(dim1=-2, dim2=-1).double()
    return hits, confusion.sum(dim=-1) + confusion.sum(dim=-2) - hits
