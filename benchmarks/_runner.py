"""What the benchmark scripts share: options, resuming, training, curves of several lists in one pass, and records.

A script measures what has no record yet, and ends each measurement with ``save``: the record then holds the seed, the
list, how the threshold was chosen, the commit, the versions and the machine.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.progress import track
from torch import Tensor

from crt.data import VOC_CLASSES, ImageDataset, Sample
from crt.evaluate.record import write_record
from crt.masks import load_mask
from crt.metrics import SeedCurve
from crt.models import CRT
from crt.models.dual import DualBranch

if TYPE_CHECKING:
    from crt.train.recipe import CAMRecipe

__all__ = [
    "CNN",
    "CUB",
    "RECORDS",
    "VOC",
    "Again",
    "Curves",
    "Json",
    "Lists",
    "ViT",
    "at_best",
    "is_done",
    "levels",
    "per_threshold",
    "save",
    "show",
    "show_steps",
    "trained",
]

RECORDS = Path(__file__).parents[1] / "docs" / "records"

VOC = Annotated[Path, typer.Option(help="Folder in the VOC layout.")]
CUB = Annotated[Path, typer.Option(help="Folder in the layout of CUB-200-2011.")]
ViT = Annotated[Path, typer.Option(help="ImageNet weights of the ViT.")]
CNN = Annotated[Path, typer.Option(help="ImageNet weights of the CNN.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the record here.")]
Again = Annotated[bool, typer.Option("--again", help="Measure again what has a record.")]


def is_done(*records: Path, again: bool = False) -> bool:
    """True, and a line that says so, if all these records exist already."""
    done = not again and all(record.exists() for record in records)
    if done:
        print(f"already measured: {', '.join(record.name for record in records)}")
    return done


def save(path: Path | None, measure: str, *, seed: int = 0, **fields: Any) -> None:
    """Writes the record of one measurement; None prints nothing and writes nothing."""
    write_record(path, measure=measure, seed=seed, **fields)


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


def show_steps(steps: Iterable[Any], first: int, total: int, status: Callable[[], str]) -> Iterable[Any]:
    """The steps of a training, with a progress bar that begins at ``first``."""
    return track(steps, status() or "steps", completed=first, total=total)


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


def trained(model: DualBranch, photos: ImageDataset, out: Path, recipe: "CAMRecipe") -> CRT:
    """The ViT after the recipe, in bfloat16 and compiled; an interrupted run in ``out`` resumes."""
    from crt.train import train_cam

    return train_cam(
        model,
        photos,
        out,
        recipe,
        precision="bf16",
        compile=True,
        progress=show_steps,
    )
