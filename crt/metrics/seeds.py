"""The seeds of a whole list against its masks."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from PIL import Image

from crt.data import VOC_CLASSES, VOCSegmentation, load_mask
from crt.metrics.segmentation import SeedCurve

__all__ = ["seed_curve"]


def seed_curve(
    extractor: Any,
    data: VOCSegmentation,
    thresholds: Sequence[float],
    *,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
) -> SeedCurve:
    """mIoU of the seeds over background thresholds, from the photos' own labels, at the masks' resolution.

    Args:
        extractor: a ``CAMExtractor`` of a model of the VOC classes.
        data: the list.
        thresholds: rising background scores, 0 to 1.
        progress: wraps the photos and their number, to show how far it is.

    Raises:
        ValueError: a mask that is no mask, or whose size differs from its photo's.
        FileNotFoundError: a photo or a mask is not there.
    """
    names = extractor.model.class_names
    if names is None or tuple(names) != VOC_CLASSES:
        raise ValueError(f"the masks are of the 20 VOC classes in VOC's order, the model's classes are {names}.")
    curve = SeedCurve(len(VOC_CLASSES), thresholds)
    photos = [data[i] for i in range(len(data))]
    results = extractor.stream((Image.open(photo.image), photo.labels) for photo in photos)
    for photo, result in progress(zip(photos, results, strict=True), len(photos)):
        try:
            curve.update(result.maps, result.labels, torch.from_numpy(load_mask(photo.mask)))
        except ValueError as error:
            raise ValueError(f"{photo.mask}: {error}") from error
    return curve
