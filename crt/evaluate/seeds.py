"""The seeds of a whole data set against its masks, for any classes."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from crt._messages import did_you_mean, printable
from crt.cam import CAMExtractor
from crt.data import ImageDataset, Sample
from crt.images import open_image
from crt.masks import load_mask
from crt.metrics import SeedCurve
from crt.metrics.mask_iou import mean_iou
from crt.metrics.seed_curve import seed_confusion

__all__ = [
    "Progress",
    "Seed",
    "SeedReport",
    "check_masks",
    "class_indices",
    "first_file",
    "load_maps",
    "measure_seeds",
    "seeds_of_folder",
    "seeds_of_model",
    "silent",
]

Item = TypeVar("Item")
Progress = Callable[[Iterable[Item], int], Iterable[Item]]  # wraps items and their number, to show how far it is
Seed = tuple[Tensor, Sequence[int]]  # maps (k, H, W) in [0, 1], and the indices of their classes in the data set


def silent(items: Iterable[Item], total: int) -> Iterable[Item]:
    """The items as they are."""
    return items


class SeedReport(NamedTuple):
    """The seeds of N images, each score with its own rule for the threshold; never mix them in one column.

    Attributes:
        curve: over all thresholds; ``curve.best()`` is the threshold that is best on this very list.
        photos: (N, T) each image's own mean IoU, over the classes that occur in it or in its seed.
        fixed: at the one threshold that was known before measuring (the model's), or None.
        oracle: mean IoU where each image takes the threshold that its own mask makes best: a bound, not a result.
    """

    curve: SeedCurve
    photos: Tensor
    fixed: SeedCurve | None = None
    oracle: float = float("nan")

    def columns(self) -> dict[str, float]:
        """mIoU by the rule of its threshold: "fixed threshold", "best on this list", "oracle per image"."""
        fixed = {} if self.fixed is None else {"fixed threshold": self.fixed.best()[1]}
        return {**fixed, "best on this list": self.curve.best()[1], "oracle per image": self.oracle}


def seeds_of_model(
    extractor: CAMExtractor,
    samples: ImageDataset | Iterable[Sample],
    class_names: Sequence[str] | None = None,
    *,
    refiner: nn.Module | None = None,
) -> Iterator[Seed]:
    """The maps of images for their own labels, refined if asked.

    Args:
        extractor: of a model that knows the classes by name, in any order, or has no names and as many classes.
        samples: the images.
        class_names: what the samples' labels index; None takes the data set's, or, for a list of samples, the model's.
        refiner: see ``crt.create_refiner``; None leaves the maps as they are.

    Raises:
        ValueError: the model lacks a class.
        OSError: an image cannot be read, after the seeds of all before it.
    """
    if class_names is None:
        class_names = samples.class_names if isinstance(samples, ImageDataset) else extractor.model.class_names
    index = class_indices(extractor, class_names)
    own = {place: label for label, place in enumerate(index)}
    device = extractor.model.device
    pairs = ((open_image(s.image).to(device), [index[label] for label in s.labels]) for s in samples)
    for result in extractor.stream(pairs):
        result = result.refined(refiner)
        yield result.maps, [own[label] for label in result.labels]


def class_indices(extractor: CAMExtractor, class_names: Sequence[str] | None) -> list[int]:
    """The index of each class in the model.

    Raises:
        ValueError: the model has no such class; or it has no names, and another number of classes.
    """
    model = extractor.model
    if class_names is None:
        return list(range(model.num_classes))
    if model.class_names is None:
        if len(class_names) != model.num_classes:
            raise ValueError(
                f"the data set has {len(class_names)} classes, the model has {model.num_classes} without names."
            )
        return list(range(model.num_classes))
    known = list(model.class_names)
    if missing := [name for name in class_names if name not in known]:
        listed = printable(", ".join(missing))
        hint = did_you_mean(missing[0], known)
        raise ValueError(f"the data set has {len(class_names)} classes; the model has no class {listed}.{hint}")
    return [known.index(name) for name in class_names]


def seeds_of_folder(
    folder: str | os.PathLike[str],
    samples: ImageDataset | Sequence[Sample],
    class_names: Sequence[str] | None = None,
) -> Iterator[Seed]:
    """The saved maps of images: ``NAME.cam.safetensors``, as ``crt cam`` writes them, or ``NAME.safetensors``.

    Args:
        folder: where they are.
        samples: the images.
        class_names: names of the K classes; None takes the data set's.

    Raises:
        FileNotFoundError: at once, if an image has none.
        ValueError: a list of samples without ``class_names``; or a file with other contents (``load_maps``).
    """
    names = samples.class_names if class_names is None and isinstance(samples, ImageDataset) else class_names
    if names is None:
        raise ValueError("class_names are needed to read saved maps for a list of samples.")
    files = [first_file(Path(folder), sample.name, (".cam.safetensors", ".safetensors"), "maps") for sample in samples]
    return (load_maps(file, names) for file in files)


def load_maps(path: str | os.PathLike[str], class_names: Sequence[str]) -> Seed:
    """Maps that ``CAMResult.save`` wrote.

    Args:
        path: the file.
        class_names: names of the K classes; the maps' classes are found by their names in the file.

    Returns:
        (k, H, W) float32 in [0, 1] and k indices into ``class_names``.

    Raises:
        OSError: it cannot be read.
        ValueError: other contents, an unknown class, or maps that are not finite or not in [0, 1].
    """
    try:
        maps, labels, names = _read_maps(Path(path))
        labels = _find_classes(labels, names, class_names)
        if maps.ndim != 3 or len(maps) != len(labels):
            raise ValueError(f"maps of shape {tuple(maps.shape)} for {len(labels)} labels")
        if not torch.isfinite(maps).all():
            raise ValueError("the maps have NaN or infinite values")
        if maps.numel() and not (maps.min() >= 0 and maps.max() <= 1):
            raise ValueError(f"the maps go from {maps.min():.3g} to {maps.max():.3g}; expected 0 to 1")
    except (SafetensorError, ValueError, TypeError, NotImplementedError, RecursionError) as error:
        message = f"{printable(os.fspath(path))}: not maps as CAMResult.save writes them: {printable(error)}."
        raise ValueError(message) from error
    return maps, labels


def _read_maps(path: Path) -> tuple[Tensor, list[int], list[str] | None]:
    """Maps, labels and names, with the right types."""
    with safe_open(path, "pt") as file:
        maps, labels = file.get_tensor("maps"), file.get_tensor("labels").tolist()
        names = json.loads((file.metadata() or {}).get("names", "null"))
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError("labels must be (k,) integers")
    fits = isinstance(names, list) and len(names) == len(labels) and all(isinstance(name, str) for name in names)
    if names is not None and not fits:
        raise ValueError("names must be a list of texts, one for each label")
    if not maps.is_floating_point():
        raise ValueError(f"maps must be floating point, got {maps.dtype}")
    return maps.float(), labels, names


def _find_classes(labels: list[int], names: list[str] | None, class_names: Sequence[str]) -> list[int]:
    """The indices of the maps' classes in ``class_names``."""
    if names is None or names == [str(label) for label in labels]:  # a model without names
        found = [label if 0 <= label < len(class_names) else -1 for label in labels]
    else:
        found = [list(class_names).index(name) if name in class_names else -1 for name in names]
    if unknown := [name for name, place in zip(names or labels, found, strict=True) if place < 0]:
        raise ValueError(f"class {unknown[0]!r} is not among {printable(', '.join(class_names))}")
    if len(set(found)) != len(found):
        raise ValueError("a class occurs twice")
    return found


def measure_seeds(
    seeds: Iterable[Seed],
    data: ImageDataset,
    thresholds: Sequence[float],
    *,
    fixed: float | None = None,
    progress: Progress = silent,
) -> SeedReport:
    """Measures the seeds of a data set over background thresholds.

    Args:
        seeds: one for each image of ``data``, in its order, at the size of its mask; labels index its classes.
        data: images with masks; any classes, any number of them.
        thresholds: rising background scores, 0 to 1.
        fixed: a threshold known before measuring, such as the model's ``seed_threshold``; measured by itself.
        progress: wraps the images and their number, to show how far it is.

    Raises:
        ValueError: an image without a mask, a mask of other classes or another size, maps that are not finite.
        FileNotFoundError: a mask does not exist.
    """
    count = len(data.class_names)
    curve, own = SeedCurve(count, thresholds), []
    known = None if fixed is None else SeedCurve(count, [fixed])
    oracle = torch.zeros(count + 1, count + 1, dtype=torch.int64)
    check_masks(data)
    for sample, (maps, labels) in progress(zip(data, seeds, strict=True), len(data)):
        before = curve.counts.clone()
        try:
            target = torch.from_numpy(load_mask(sample.mask))  # type: ignore[arg-type]
            for metric in [curve] if known is None else [curve, known]:
                metric.update(maps, labels, target)
        except ValueError as error:
            raise ValueError(f"{printable(sample.mask)}: {error}") from error
        confusion = seed_confusion(curve.counts - before)
        own.append(mean_iou(confusion).cpu())
        oracle += confusion[int(own[-1].nan_to_num(-1).argmax())].cpu()
    photos = torch.stack(own) if own else torch.zeros(0, len(thresholds))
    return SeedReport(curve, photos, known, float(mean_iou(oracle)))


def first_file(folder: Path, name: str, endings: Sequence[str], what: str) -> Path:
    """``folder/name`` with the first of the endings that exists."""
    files = [folder / f"{name}{ending}" for ending in endings]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        shown = printable(files[0])
        raise FileNotFoundError(f"no {what} of {printable(name)!r}: neither {shown} nor {printable(files[1].name)}.")
    return found


def check_masks(data: ImageDataset) -> None:
    """Raises ValueError or FileNotFoundError, before the work, if an image has no true mask."""
    if without := [sample.name for sample in data if sample.mask is None]:
        raise ValueError(
            f"{len(without)} of {len(data)} images have no true mask, the first: {printable(without[0])}; "
            "attach a folder of NAME.png with ImageDataset.with_masks, or --truth."
        )
    if missing := [sample.mask for sample in data if sample.mask is not None and not sample.mask.is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(data)} images have no true mask, the first: {printable(missing[0])}."
        )
