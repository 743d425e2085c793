"""A model's boxes on a whole list: weakly supervised object localisation (WSOL)."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from crt.cam.functional import min_max
from crt.data import ImageDataset
from crt.evaluate.seeds import Progress, decoded, silent
from crt.images import normalize, to_tensor
from crt.metrics import BoxCurve, Localisation, best_overlaps, component_boxes, largest_boxes

__all__ = ["BoxReport", "measure_boxes"]


class BoxReport(NamedTuple):
    """What was measured on a list of N photos.

    Attributes:
        localisation: at the given threshold.
        curve: over all thresholds.
        outcomes: (N, 5) bool, what each photo added to ``localisation``, by ``Localisation.names``.
        overlaps: (N,) IoU of each photo's box with the true box that fits best.
        boxes: (N, 4) float64, XYXY in pixels of the photo.
    """

    localisation: Localisation
    curve: BoxCurve
    outcomes: Tensor
    overlaps: Tensor
    boxes: Tensor


def measure_boxes(
    extractor: Any,
    data: ImageDataset,
    threshold: float,
    *,
    thresholds: Sequence[float] | None = None,
    iou: float = 0.5,
    square: int | None = None,
    refiner: nn.Module | None = None,
    progress: Progress = silent,
) -> BoxReport:
    """Localisation of a list by a model: boxes of the maps of the photos' own classes, Top-k by the model's logits.

    Logits are those of the whole photo as the extractor sees it at scale 1, averaged with its mirror image's if the
    extractor has ``flip``.

    Args:
        extractor: a ``CAMExtractor`` of a model that knows the classes of ``data`` by name, in any order.
        data: the list.
        threshold: for ``Localisation``: share of a map's range that belongs to the object.
        thresholds: for ``BoxCurve``; None takes its own.
        iou: overlap that counts as found, for ``Localisation``.
        square: photos are seen resized to this many pixels a side (usual for CUB: 224), and true boxes with them; None
            sees them as they are.
        refiner: makes the maps better before their boxes are taken (``crt.create_refiner``), or None.
        progress: wraps the photos and their number, to show how far it is.

    Raises:
        ValueError: the model lacks a class of the list, a true box outside its photo.
        OSError: a photo is not there, or cannot be read.
    """
    names = extractor.model.class_names
    if names is None or (missing := [name for name in data.class_names if name not in names]):
        lacks = "no class names" if names is None else f"no class {missing[0]!r}"
        raise ValueError(f"the list has {len(data.class_names)} classes, the model has {lacks}.")
    labels = [names.index(name) for name in data.class_names]
    localisation, curve = Localisation(threshold, iou=iou), BoxCurve(thresholds)
    outcomes, overlaps, boxes = [], [], []
    seen = _seen(extractor, data, labels, square, refiner)
    for photo, (cam, factors, logits) in progress(zip(data, seen, strict=True), len(data)):
        truth, before = torch.tensor(photo.boxes, dtype=torch.float64) * factors, localisation.hits.clone()
        try:
            localisation.update(cam, truth, logits, labels[photo.labels[0]])
            curve.update(cam, truth)
        except ValueError as error:
            raise ValueError(f"{photo.image}: {error}") from error
        level = localisation.threshold
        outcomes.append(localisation.hits > before)
        overlaps.append(best_overlaps(cam, truth, level)[0][0])
        boxes.append(largest_boxes(component_boxes(min_max(cam), level), 1)[0] / factors)
    return BoxReport(localisation, curve, torch.stack(outcomes), torch.stack(overlaps), torch.stack(boxes))


def _seen(
    extractor: Any, data: ImageDataset, labels: Sequence[int], square: int | None, refiner: nn.Module | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each photo the map of its class, the factors from the photo's pixels to the map's, and its logits."""
    pending: list[tuple[Tensor, Tensor]] = []

    def pairs() -> Iterator[tuple[np.ndarray, int]]:
        for photo in data:
            image = Image.fromarray(decoded(extractor, photo.image).permute(1, 2, 0).cpu().numpy())
            if any(x1 <= 0 or y1 <= 0 or x0 >= image.width or y0 >= image.height for x0, y0, x1, y1 in photo.boxes):
                raise ValueError(f"{photo.image}: a true box lies outside its {image.width} x {image.height} pixels.")
            size = (square, square) if square else image.size
            factor = torch.tensor([size[0] / image.width, size[1] / image.height] * 2, dtype=torch.float64)
            pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR) if square else image)
            pending.append((factor, _logits(extractor, pixels)))
            yield pixels, labels[photo.labels[0]]

    for result in extractor.stream(pairs()):
        factor, logits = pending.pop(0)
        yield result.refined(refiner).maps[0].cpu(), factor, logits


def _logits(extractor: Any, pixels: np.ndarray) -> Tensor:
    """(K,) of the photo, at most ``max_side`` long, and its mirror image."""
    model = extractor.model
    longest = max(pixels.shape[:2])
    if extractor.max_side and longest > extractor.max_side:
        height, width = (max(1, round(side * extractor.max_side / longest)) for side in pixels.shape[:2])
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    photo = normalize(to_tensor(pixels).to(model.device), model.mean, model.std)
    training = model.training
    try:
        with torch.no_grad():
            views = torch.stack([photo, photo.flip(-1)] if extractor.flip else [photo])
            return model.eval()(views).float().mean(dim=0).cpu()
    finally:
        model.train(training)
