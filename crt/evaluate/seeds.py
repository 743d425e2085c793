"""The seeds of a whole VOC list against its masks."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from crt.data import VOC_CLASSES, ImageDataset, Sample, load_mask
from crt.images import open_image
from crt.metrics import SeedCurve, mean_iou, seed_confusion

__all__ = [
    "Progress",
    "SeedReport",
    "check_masks",
    "decoded",
    "first_file",
    "load_maps",
    "measure_seeds",
    "seeds_of_folder",
    "seeds_of_model",
    "silent",
]

Progress = Callable[[Iterable[Any], int], Iterable[Any]]  # wraps items and their number, to show how far it is
Seed = tuple[Tensor, Sequence[int]]  # maps (k, H, W) in [0, 1], and the indices of their classes


def silent(items: Iterable[Any], total: int) -> Iterable[Any]:
    return items


class SeedReport(NamedTuple):
    """The curve of a list, and each photo's own: (N, T) mean IoU over the classes that occur in it or its seed."""

    curve: SeedCurve
    photos: Tensor


def seeds_of_model(extractor: Any, photos: Iterable[Sample], *, refiner: nn.Module | None = None) -> Iterator[Seed]:
    """The maps of photos, refined if asked, for their own labels; the model's classes must be VOC's."""
    names = extractor.model.class_names
    if names is None or tuple(names) != VOC_CLASSES:
        raise ValueError(f"the masks are of the 20 VOC classes in VOC's order, the model's classes are {names}.")
    results = extractor.stream((decoded(extractor, photo.image), photo.labels) for photo in photos)
    return ((result.refined(refiner).maps, result.labels) for result in results)


def decoded(extractor: Any, file: Path) -> Tensor:
    """The photo as the model takes it: (3, H, W) uint8, on its device."""
    return open_image(file).to(extractor.model.device)


def seeds_of_folder(folder: str | os.PathLike[str], photos: Iterable[Sample]) -> Iterator[Seed]:
    """The saved maps of photos: ``NAME.cam.safetensors``, as ``crt cam`` writes them, or ``NAME.safetensors``.

    Raises:
        FileNotFoundError: at once, if a photo has none.
    """
    files = [first_file(Path(folder), photo.name, (".cam.safetensors", ".safetensors"), "maps") for photo in photos]
    return (load_maps(file, VOC_CLASSES) for file in files)


def load_maps(path: str | os.PathLike[str], class_names: Sequence[str]) -> Seed:
    """Maps that ``CAMResult.save`` wrote.

    Args:
        path: the file.
        class_names: names of the K classes; the maps' classes are found by their names in the file.

    Returns:
        (k, H, W) float32 in [0, 1] and k indices into ``class_names``.

    Raises:
        OSError: it cannot be read.
        ValueError: other contents, an unknown class, or maps beyond [0, 1].
    """
    try:
        with safe_open(path, "pt") as file:
            maps, labels = file.get_tensor("maps"), file.get_tensor("labels").tolist()
            names = json.loads((file.metadata() or {}).get("names", "null"))
            if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
                raise ValueError("labels are (k,) integers")
            if names is not None and not (isinstance(names, list) and len(names) == len(labels)):
                raise ValueError("names are a list, one for each label")
            maps = maps.float()
    except (SafetensorError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{os.fspath(path)}: no maps as CAMResult.save writes them: {error}.") from error
    if names is None or names == [str(label) for label in labels]:  # a model without names
        known = [0 <= label < len(class_names) for label in labels]
    else:
        known = [name in class_names for name in names]
        labels = [class_names.index(name) if name in class_names else -1 for name in names]
    if not all(known) or len(set(labels)) != len(labels):
        raise ValueError(f"{os.fspath(path)}: its classes {names or labels} are not among {', '.join(class_names)}.")
    if maps.ndim != 3 or len(maps) != len(labels):
        raise ValueError(f"{os.fspath(path)}: maps of {tuple(maps.shape)} for {len(labels)} labels.")
    if maps.numel() and not (maps.min() >= 0 and maps.max() <= 1):
        raise ValueError(
            f"{os.fspath(path)}: the maps go from {maps.min():.3g} to {maps.max():.3g}; expected 0 to 1, normalised."
        )
    return maps, labels


def measure_seeds(
    seeds: Iterable[Seed], data: ImageDataset, thresholds: Sequence[float], *, progress: Progress = silent
) -> SeedReport:
    """The seeds of a list over background thresholds.

    Args:
        seeds: one for each photo of ``data``, in its order, at the size of its mask.
        data: the list.
        thresholds: rising background scores, 0 to 1.
        progress: wraps the photos and their number, to show how far it is.

    Raises:
        ValueError: a mask that is no mask, or whose size differs from its photo's.
        FileNotFoundError: a mask is not there.
    """
    curve, own = SeedCurve(len(VOC_CLASSES), thresholds), []
    check_masks(data)
    for photo, (maps, labels) in progress(zip(data, seeds, strict=True), len(data)):
        before = curve.counts.clone()
        try:
            curve.update(maps, labels, torch.from_numpy(load_mask(photo.mask)))
        except ValueError as error:
            raise ValueError(f"{photo.mask}: {error}") from error
        own.append(mean_iou(seed_confusion(curve.counts - before)).cpu())
    return SeedReport(curve, torch.stack(own) if own else torch.zeros(0, len(thresholds)))


def first_file(folder: Path, name: str, endings: Sequence[str], what: str) -> Path:
    files = [folder / f"{name}{ending}" for ending in endings]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no {what} of {name!r}: neither {files[0]} nor {files[1].name}.")
    return found


def check_masks(data: ImageDataset) -> None:
    """FileNotFoundError before the work if a true mask is not there."""
    if missing := [photo.mask for photo in data if not photo.mask.is_file()]:
        raise FileNotFoundError(f"{len(missing)} of {len(data)} photos have no true mask, the first: {missing[0]}.")
