"""Intersection over union of masks, with false positives and false negatives."""

import torch
from torch import Tensor

from crt.metrics._counts import Counts

__all__ = ["MaskIoU", "check_classes", "confusion_matrix", "error_rates", "iou_per_class", "mean_iou"]


def confusion_matrix(prediction: Tensor, truth: Tensor, classes: int, *, ignore: int = 255) -> Tensor:
    """Counts of pixels by true and predicted class.

    Args:
        prediction: (..., H, W) integers from 0 to C - 1 where the truth counts.
        truth: the same shape; integers from 0 to C - 1, or ``ignore``.
        classes: C, background included.
        ignore: value in the truth of pixels that do not count.

    Returns:
        (C, C) int64, [truth, prediction].

    Raises:
        ValueError: the shapes differ, masks that are no integers, or a class beyond C - 1.

    >>> confusion_matrix(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 255]]), 2)
    tensor([[1, 1],
            [0, 0]])
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"a prediction of {tuple(prediction.shape)} does not fit a mask of {tuple(truth.shape)}.")
    if prediction.is_floating_point() or truth.is_floating_point():
        raise ValueError(f"masks are integers, got {prediction.dtype} and {truth.dtype}.")
    counted = truth.long() != ignore
    truth, prediction = truth[counted].long(), prediction[counted].long()
    check_classes("mask", truth, classes)
    check_classes("prediction", prediction, classes)
    return torch.bincount(truth * classes + prediction, minlength=classes**2).view(classes, classes)


def iou_per_class(confusion: Tensor) -> Tensor:
    """Intersection over union from confusion counts.

    Args:
        confusion: (..., C, C) counts, [truth, prediction].

    Returns:
        (..., C) float64; NaN for a class that neither truth nor prediction holds.

    >>> iou_per_class(torch.tensor([[3, 1], [0, 4]]))
    tensor([0.7500, 0.8000], dtype=torch.float64)
    """
    hits, union = _hits_and_union(confusion)
    return hits / union


def mean_iou(confusion: Tensor) -> Tensor:
    """The mean over the classes that occur (nanmean, as is usual on VOC), background included: (..., C, C) -> (...)."""
    return iou_per_class(confusion).nanmean(dim=-1)


def error_rates(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """False positives and false negatives of each class, as shares of the union of truth and prediction.

    This is what papers on weak supervision report since IRN (Ahn et al., CVPR 2019): IoU + FP + FN = 1.

    Args:
        confusion: (..., C, C) counts, [truth, prediction].

    Returns:
        FP and FN, (..., C) float64 each; NaN for a class that neither truth nor prediction holds.

    >>> error_rates(torch.tensor([[3, 1], [0, 4]]))
    (tensor([0.0000, 0.2000], dtype=torch.float64), tensor([0.2500, 0.0000], dtype=torch.float64))
    """
    hits, union = _hits_and_union(confusion)
    return (confusion.sum(dim=-2) - hits) / union, (confusion.sum(dim=-1) - hits) / union


class MaskIoU(Counts):
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
        self.add_counts("confusion", self.classes, self.classes)
        self.add_settings(ignore)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Adds masks: (..., H, W) integers each, as in ``confusion_matrix``."""
        prediction, truth = prediction.to(self.device), truth.to(self.device)
        self.confusion += confusion_matrix(prediction, truth, self.classes, ignore=self.ignore)

    def compute(self) -> dict[str, Tensor]:
        """``miou``, the mean over classes that occur; ``iou``, ``fp`` and ``fn`` (``error_rates``), (K + 1,) each."""
        fp, fn = error_rates(self.confusion)
        return {"miou": mean_iou(self.confusion), "iou": iou_per_class(self.confusion), "fp": fp, "fn": fn}


def _hits_and_union(confusion: Tensor) -> tuple[Tensor, Tensor]:
    hits = confusion.diagonal(dim1=-2, dim2=-1).double()
    return hits, confusion.sum(dim=-1) + confusion.sum(dim=-2) - hits


def check_classes(what: str, values: Tensor, classes: int) -> None:
    if values.numel() and not 0 <= values.min() <= values.max() < classes:
        raise ValueError(
            f"the {what} has classes {values.unique().tolist()}; with {classes - 1} of them they are 0 to that."
        )
