"""What the benchmarks on VOC lists share: photos of several lists seen once, a curve a list."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from crt.data import VOC_CLASSES, ImageDataset, Sample, load_mask
from crt.metrics import SeedCurve

__all__ = ["Curves", "Lists", "at_best", "levels", "per_threshold", "show"]


class Lists:
    """Lists of one VOC folder.

    Attributes:
        data: the lists by name.
        photos: all their photos, those in several lists once; the first list's come first.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.data = {name: ImageDataset.from_voc(root, name, masks=True) for name in names}
        self.photos = list({photo.name: photo for data in self.data.values() for photo in data}.values())
        self._members = {name: {sample.name for sample in data} for name, data in self.data.items()}

    def of(self, photo: Sample) -> list[str]:
        """The lists that this photo is in."""
        return [name for name, members in self._members.items() if photo.name in members]


class Curves:
    """The seed curve of each list.

    Args:
        lists: the lists.
        thresholds: rising background scores, 0 to 1.
    """

    def __init__(self, lists: Lists, thresholds: Sequence[float]) -> None:
        self.lists = lists
        self.of = {name: SeedCurve(len(VOC_CLASSES), thresholds) for name in lists.data}

    def add(self, photo: Sample, maps: Tensor, labels: Sequence[int], truth: Tensor | None = None) -> None:
        """A photo's maps (k, H, W) in [0, 1] and classes, to the lists it is in; ``truth``: its mask, if at hand."""
        truth = torch.from_numpy(load_mask(photo.mask)) if truth is None else truth
        for name in self.lists.of(photo):
            self.of[name].update(maps, labels, truth)

    def add_all(self, seeds: Iterable[tuple[Tensor, Sequence[int]]]) -> "Curves":
        """Maps and classes of ``lists.photos``, in their order."""
        pairs = zip(self.lists.photos, seeds, strict=True)
        for photo, (maps, labels) in show(pairs, len(self.lists.photos)):
            self.add(photo, maps, labels)
        return self


def show(items: Iterable[Any], total: int) -> Iterable[Any]:
    """The photos, with a progress bar."""
    return track(items, "photos", total=total)


def levels(step: float, count: int) -> list[float]:
    """Thresholds 0.02, 0.02 + step, ..."""
    return [round(0.02 + step * i, 2) for i in range(count)]


def at_best(curve: SeedCurve) -> dict[str, Any]:
    """For a record: the best threshold, its mIoU, and the curve."""
    threshold, best = curve.best()
    return {"threshold": round(threshold, 6), "miou": best, "curve": per_threshold(curve)}


def per_threshold(curve: SeedCurve) -> dict[str, float]:
    """mIoU by threshold, as text with three digits."""
    pairs = zip(curve.thresholds.tolist(), curve.compute().view(-1).tolist(), strict=True)
    return {f"{threshold:.3f}": miou for threshold, miou in pairs}
