"""Masks of a whole data set, from a folder or from a model, against its own, for any classes."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from crt._messages import printable
from crt.data import ImageDataset, Sample
from crt.evaluate.seeds import Progress, check_masks, first_file, silent
from crt.images import open_image
from crt.masks import load_mask
from crt.metrics import BoundaryIoU, MaskIoU
from crt.metrics.mask_iou import mean_iou

__all__ = ["MaskReport", "list_true_masks", "mask_file", "measure_masks", "measure_segmentation"]

PathLike = str | os.PathLike[str]


class MaskReport(NamedTuple):
    """The scores of N masks.

    Attributes:
        masks: IoU, false positives and false negatives.
        boundaries: boundary IoU.
        photos: (N,) each mask's own mean IoU, over the classes that occur in it or in the true one.
        names: of the N images.
    """

    masks: MaskIoU
    boundaries: BoundaryIoU
    photos: Tensor
    names: list[str]


def measure_masks(
    preds: PathLike,
    target: ImageDataset | PathLike,
    class_names: Sequence[str] | None = None,
    *,
    progress: Progress = silent,
) -> MaskReport:
    """Measures a folder of masks.  No image-level labels are needed.

    Args:
        preds: folder of ``NAME.png``, or ``NAME.mask.png`` as ``crt cam`` writes them.
        target: a data set with masks, or a folder of true masks ``NAME.png``, each of which is measured.
        class_names: of the values 1 to K of the masks; None takes the data set's.
        progress: wraps the images and their number, to show how far it is.

    Raises:
        FileNotFoundError: an image has no mask in one of them; of ``preds`` at once.
        ValueError: a folder without ``class_names``; a mask of other classes or another size; pixels of 255 (unsure)
            in a mask of ``preds``.
    """
    data = target if isinstance(target, ImageDataset) else list_true_masks(target, class_names)
    files = [mask_file(preds, sample.name) for sample in data]
    pairs = ((str(file), _load(file)) for file in files)
    return _measure(pairs, data, class_names, progress)


def measure_segmentation(
    predict: Callable[[Tensor], Tensor],
    data: ImageDataset,
    class_names: Sequence[str] | None = None,
    *,
    progress: Progress = silent,
) -> MaskReport:
    """Measures the masks that a model predicts from images alone; the data set's labels are not looked at.

    Args:
        predict: (3, H, W) uint8 -> (H, W) integers, 0 = background, i + 1 = class i: for one,
            ``lambda image: model.segment(image)[0]``.
        data: images with masks.
        class_names: of the values 1 to K of the masks; None takes the data set's.
        progress: wraps the images and their number, to show how far it is.

    Raises:
        FileNotFoundError: a true mask does not exist.
        ValueError: an image without a mask; a mask of other classes or another size.
        OSError: an image cannot be read.
    """
    pairs = ((str(sample.image), predict(open_image(sample.image)).cpu()) for sample in data)
    return _measure(pairs, data, class_names, progress)


def mask_file(folder: PathLike, name: str) -> Path:
    """The mask of an image in a folder."""
    return first_file(Path(folder), name, (".mask.png", ".png"), "mask")  # NAME.png may be a picture for people


def _measure(
    preds: Iterator[tuple[str, Tensor]], data: ImageDataset, class_names: Sequence[str] | None, progress: Progress
) -> MaskReport:
    """``preds``: for each image, where its mask comes from, and the mask."""
    check_masks(data)
    count = len(data.class_names if class_names is None else class_names)
    masks, boundaries, own = MaskIoU(count), BoundaryIoU(count), []
    for sample, (source, mask) in progress(zip(data, preds, strict=True), len(data)):
        target, before = _load(sample.mask), masks.confusion.clone()  # type: ignore[arg-type]
        try:
            if count < 255 and ((mask == 255) & (target != 255)).any():
                raise ValueError(
                    "the mask has pixels of 255, which mark unsure places for training; a mask to measure names a "
                    "class everywhere: make it with a single threshold (crt pseudo --threshold 0.3)."
                )
            masks.update(mask, target)
            boundaries.update(mask, target)
        except ValueError as error:
            raise ValueError(f"{printable(source)} against {printable(sample.mask)}: {error}") from error
        own.append(mean_iou(masks.confusion - before).cpu())
    names = [sample.name for sample in data]
    return MaskReport(masks, boundaries, torch.stack(own) if own else torch.zeros(0), names)


def _load(file: Path) -> Tensor:
    return torch.from_numpy(load_mask(file)).long()


def list_true_masks(
    folder: PathLike, class_names: Sequence[str] | None, images: PathLike | None = None
) -> ImageDataset:
    """A folder of true masks, ``NAME.png`` at any depth, as a data set without labels.

    Args:
        folder: where they are.
        class_names: of the values 1 to K of the masks.
        images: folder of the images, each the file of its mask's name; None puts the masks in their place, for
            measuring that looks at no image.

    Raises:
        FileNotFoundError: no such folder, no masks in it, or a mask without an image.
        ValueError: no ``class_names``.
    """
    if class_names is None:
        raise ValueError(
            "a folder of true masks does not name its classes: give class_names (--classes), in the order of the mask "
            "values 1, 2, ..."
        )
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of true masks at {printable(folder)}.")
    masks = {_stem(mask, folder): mask for mask in _files(folder) if mask.suffix == ".png"}
    if not masks:
        raise FileNotFoundError(f"{printable(folder)} holds no true masks, NAME.png.")
    found = masks if images is None else {_stem(file, Path(images)): file for file in _files(Path(images))}
    if missing := [name for name in masks if name not in found]:
        raise FileNotFoundError(
            f"{len(missing)} masks of {printable(folder)} have no image in {printable(images)}, the first: "
            f"{printable(missing[0])}."
        )
    return ImageDataset([Sample(found[name], name, [], mask) for name, mask in masks.items()], class_names)


def _files(folder: Path) -> list[Path]:
    """All files that are not hidden, in a fixed order."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))


def _stem(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()
