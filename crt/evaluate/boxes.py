"""A model's boxes on a whole data set: weakly supervised object localization (WSOL)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crt._messages import printable
from crt.cam import CAMExtractor
from crt.cam.functional import min_max
from crt.data import ImageDataset, Sample
from crt.evaluate.classification import image_logits, resize_pixels
from crt.evaluate.seeds import Progress, class_indices, silent
from crt.images import open_image
from crt.metrics import BoxCurve, Localization
from crt.metrics.boxes import best_overlaps, component_boxes, largest_boxes

__all__ = ["BoxReport", "measure_boxes"]


class BoxReport(NamedTuple):
    """What was measured on a list of N photos.

    Attributes:
        localization: at the given threshold.
        curve: over all thresholds.
        outcomes: (N, 5) bool, what each photo added to ``localization``, by ``Localization.names``.
        overlaps: (N,) IoU of each photo's box with the true box that fits best.
        boxes: (N, 4) float64, XYXY in pixels of the photo.
    """

    localization: Localization
    curve: BoxCurve
    outcomes: Tensor
    overlaps: Tensor
    boxes: Tensor


def measure_boxes(
    extractor: CAMExtractor,
    data: ImageDataset,
    threshold: float,
    *,
    thresholds: Sequence[float] | None = None,
    iou: float = 0.5,
    square: int | None = None,
    refiner: nn.Module | None = None,
    progress: Progress = silent,
) -> BoxReport:
    """Measures localization: boxes of the maps of the images' own classes, Top-k by the model's logits.

    Logits are those of the whole image as the extractor sees it at scale 1, averaged with its mirror image's if the
    extractor has ``flip``.  Under autocast both maps and logits are computed in its type.

    Args:
        extractor: a ``CAMExtractor`` of a model that knows the classes of ``data`` by name, in any order.
        data: images with one label each, and boxes.
        threshold: for ``Localization``: share of a map's range that belongs to the object.
        thresholds: for ``BoxCurve``; None takes its own.
        iou: overlap that counts as found, for ``Localization``.
        square: photos are seen resized to this many pixels a side (usual for CUB: 224), and true boxes with them; None
            sees them as they are.
        refiner: makes the maps better before their boxes are taken (``crt.create_refiner``), or None.
        progress: wraps the photos and their number, to show how far it is.

    Raises:
        ValueError: the model lacks a class, an image without a box or with several classes, a box outside its image.
        OSError: a photo is not there, or cannot be read.
    """
    if wrong := [sample.name for sample in data if len(sample.labels) != 1 or not sample.boxes]:
        raise ValueError(
            f"localization needs one class and its true boxes for each image; {len(wrong)} of {len(data)} lack them, "
            f"the first: {printable(wrong[0])}."
        )
    labels = class_indices(extractor, data.class_names)
    localization, curve = Localization(threshold, iou=iou), BoxCurve(thresholds)
    outcomes, overlaps, boxes = [], [], []
    seen = _seen(extractor, data, labels, square, refiner)
    for photo, (cam, factors, logits) in progress(zip(data, seen, strict=True), len(data)):
        truth, before = torch.tensor(photo.boxes, dtype=torch.float64) * factors, localization.hits.clone()
        try:
            localization.update(cam, truth, logits, labels[photo.labels[0]])
            curve.update(cam, truth)
        except ValueError as error:
            raise ValueError(f"{printable(photo.image)}: {error}") from error
        level = localization.threshold
        outcomes.append(localization.hits > before)
        overlaps.append(best_overlaps(cam, truth, level)[0][0])
        boxes.append(largest_boxes(component_boxes(min_max(cam), level), 1)[0] / factors)
    return BoxReport(localization, curve, torch.stack(outcomes), torch.stack(overlaps), torch.stack(boxes))


def _seen(
    extractor: CAMExtractor, data: ImageDataset, labels: Sequence[int], square: int | None, refiner: nn.Module | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each image the map of its class, the factors from the image's pixels to the map's, and its logits."""
    pending: list[Tensor] = []

    def pairs() -> Iterator[tuple[Tensor, list[int]]]:  # runs in the thread that reads ahead: no model in here
        for sample in data:
            image = open_image(sample.image)
            _check_boxes(sample, image)
            height, width = image.shape[-2:]
            size = (square, square) if square else (height, width)
            pending.append(torch.tensor([size[1] / width, size[0] / height] * 2, dtype=torch.float64))
            yield resize_pixels(image, size), [labels[sample.labels[0]]]

    for result in extractor.stream(pairs()):
        yield result.refined(refiner).maps[0].cpu(), pending.pop(0), image_logits(extractor, result.pixels)


def _check_boxes(sample: Sample, image: Tensor) -> None:
    height, width = image.shape[-2:]
    if any(x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height for x0, y0, x1, y1 in sample.boxes or []):
        raise ValueError(f"{printable(sample.image)}: a true box lies outside its {width} x {height} pixels.")
