"""Rows of contact sheets: the text above each, and its pictures."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from crt.cam import mask_from_cam
from crt.data import ImageDataset, Sample
from crt.evaluate.masks import mask_file
from crt.evaluate.report import percent
from crt.evaluate.seeds import Seed
from crt.images import open_image
from crt.masks import load_mask
from crt.viz import draw_boxes, paint_mask

__all__ = ["box_rows", "mask_rows", "seed_rows"]

Low = Sequence[tuple[int, str, float]]  # place in the data set, name, score: what ``crt.evaluate.report.worst`` gives
Row = tuple[str, list[Image.Image]]


def seed_rows(
    data: ImageDataset, low: Low, seeds: Callable[[ImageDataset], Iterator[Seed]], threshold: float
) -> Iterator[Row]:
    """Image, true mask, and seed."""
    chosen = ImageDataset([data[place] for place, _, _ in low], data.class_names)
    for (place, name, score), (maps, labels) in zip(low, seeds(chosen), strict=True):
        seed = paint_mask(mask_from_cam(maps, labels, threshold))
        yield f"{name}: mIoU {percent(score)}", [*_image_and_target(data[place]), seed]


def mask_rows(data: ImageDataset, low: Low, folder: Path) -> Iterator[Row]:
    """Image, true mask, and mask."""
    for place, name, score in low:
        yield f"mIoU {percent(score)}: {name}", [*_image_and_target(data[place]), _paint(mask_file(folder, name))]


def box_rows(data: ImageDataset, low: Low, boxes: Tensor) -> Iterator[Row]:
    """The image with its true boxes (green) and the map's (red)."""
    for place, name, score in low:
        sample = data[place]
        drawn = draw_boxes(_open(sample.image), sample.boxes or [], (0, 200, 0))
        yield f"IoU {percent(score)}: {Path(name).name}", [draw_boxes(drawn, [boxes[place].tolist()], (230, 0, 0))]


def _image_and_target(sample: Sample) -> list[Image.Image]:
    target = _paint(sample.mask) if sample.mask is not None else Image.new("RGB", (1, 1))
    return [_open(sample.image), target]


def _open(file: Path) -> Image.Image:
    return Image.fromarray(open_image(file).permute(1, 2, 0).numpy())


def _paint(file: Path) -> Image.Image:
    return paint_mask(torch.from_numpy(load_mask(file).astype("int64")))
