"""Rows of contact sheets: the text above each, and its pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crt.evaluate.report import percent

__all__ = ["box_rows", "mask_rows", "seed_rows"]


def seed_rows(data: Any, low: Any, seeds: Any, threshold: float) -> Iterator[tuple[str, list[Any]]]:
    """Photo, truth, and seed."""
    from crt.cam import mask_from_cam
    from crt.viz import paint_mask

    photos = [data[place] for place, _, _ in low]
    for (place, name, score), (maps, labels) in zip(low, seeds(photos), strict=True):
        yield (
            f"{name}: mIoU {percent(score)}",
            [
                *_photo_and_truth(data[place]),
                paint_mask(mask_from_cam(maps, labels, threshold)),
            ],
        )


def mask_rows(data: Any, low: Any, folder: Path) -> Iterator[tuple[str, list[Any]]]:
    """Photo, truth, and mask."""
    import torch

    from crt.data import load_mask
    from crt.evaluate.masks import mask_file
    from crt.viz import paint_mask

    for place, name, score in low:
        mask = torch.from_numpy(load_mask(mask_file(folder, name)).astype("int64"))
        yield f"mIoU {percent(score)}: {name}", [*_photo_and_truth(data[place]), paint_mask(mask)]


def _photo_and_truth(photo: Any) -> list[Any]:
    import torch
    from PIL import Image, ImageOps

    from crt.data import load_mask
    from crt.viz import paint_mask

    with Image.open(photo.image) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return [upright, paint_mask(torch.from_numpy(load_mask(photo.mask).astype("int64")))]


def box_rows(data: Any, low: Any, boxes: Any) -> Iterator[tuple[str, list[Any]]]:
    """The photo with its true boxes (green) and the map's (red)."""
    from PIL import Image, ImageOps

    from crt.viz import draw_boxes

    for place, name, score in low:
        photo = data[place]
        with Image.open(photo.image) as image:
            drawn = draw_boxes(ImageOps.exif_transpose(image), photo.boxes, (0, 200, 0))
        yield f"IoU {percent(score)}: {Path(name).name}", [draw_boxes(drawn, [boxes[place].tolist()], (230, 0, 0))]
