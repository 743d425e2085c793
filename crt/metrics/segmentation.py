"""Intersection over union of masks, and of seeds at every background threshold in one pass: pure functions."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["confusion_matrix", "error_rates", "iou_per_class", "mean_iou", "seed_confusion", "seed_histogram"]


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
    _check_classes("mask", truth, classes)
    _check_classes("prediction", prediction, classes)
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
    _check_classes("mask", truth[counted], classes)
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


def _hits_and_union(confusion: Tensor) -> tuple[Tensor, Tensor]:
    hits = confusion.diagonal(dim1=-2, dim2=-1).double()
    return hits, confusion.sum(dim=-1) + confusion.sum(dim=-2) - hits


def _check_classes(what: str, values: Tensor, classes: int) -> None:
    if values.numel() and not 0 <= values.min() <= values.max() < classes:
        raise ValueError(
            f"the {what} has classes {values.unique().tolist()}; with {classes - 1} of them they are 0 to that."
        )
