"""The masks of a whole VOC list against its own."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from crt.data import VOC_CLASSES, ImageDataset, load_mask
from crt.evaluate.seeds import Progress, check_masks, first_file, silent
from crt.metrics import BoundaryIoU, MaskIoU, mean_iou

__all__ = ["MaskReport", "mask_file", "measure_masks"]


class MaskReport(NamedTuple):
    """The scores of a list's masks, and each photo's own: (N,) mean IoU over the classes that occur in it."""

    masks: MaskIoU
    boundaries: BoundaryIoU
    photos: Tensor


def measure_masks(folder: str | os.PathLike[str], data: ImageDataset, *, progress: Progress = silent) -> MaskReport:
    """A folder of masks, ``NAME.png`` or ``NAME.mask.png`` (as ``crt cam`` writes them), against those of a list.

    Raises:
        FileNotFoundError: a photo has no mask in one of them; of ``folder`` at once.
        ValueError: a file that is no mask of the VOC classes, or whose size differs from the list's.
    """
    files = [mask_file(folder, photo.name) for photo in data]
    check_masks(data)
    masks, boundaries, own = MaskIoU(len(VOC_CLASSES)), BoundaryIoU(len(VOC_CLASSES)), []
    for photo, file in progress(zip(data, files, strict=True), len(data)):
        truth, prediction = (torch.from_numpy(load_mask(path)).long() for path in (photo.mask, file))
        before = masks.confusion.clone()
        try:
            masks.update(prediction, truth)
            boundaries.update(prediction, truth)
        except ValueError as error:
            raise ValueError(f"{file} against {photo.mask}: {error}") from error
        own.append(mean_iou(masks.confusion - before).cpu())
    return MaskReport(masks, boundaries, torch.stack(own) if own else torch.zeros(0))


def mask_file(folder: str | os.PathLike[str], name: str) -> Path:
    """The mask of a photo in a folder."""
    return first_file(Path(folder), name, (".png", ".mask.png"), "mask")
