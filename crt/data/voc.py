"""PASCAL VOC: its classes, and photos with labels and masks in its folder layout."""

import csv
import os
from pathlib import Path
from typing import NamedTuple

from crt._messages import did_you_mean

__all__ = ["VOC_CLASSES", "VOCSegmentation"]

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class VOCPhoto(NamedTuple):
    """One entry of a list: where its files are and what the photo shows."""

    name: str
    image: Path
    mask: Path
    labels: list[str]


class VOCSegmentation:
    """The photos of one list of a VOC-style folder.

    The folder holds ``JPEGImages/NAME.jpg``, ``SegmentationClassAug/NAME.png`` (or ``SegmentationClass``),
    ``ImageSets/Segmentation/LIST.txt`` with a name a line, and ``labels.csv`` with the columns ``id``, ``labels`` and
    optionally ``difficult`` (class names, separated by spaces).

    Args:
        root: the folder.
        split: name of the list, without ".txt".
        difficult: count objects marked as difficult as present.

    Raises:
        FileNotFoundError: the folder lacks one of these; the message names it, and the lists there are.
        ValueError: a name without labels or an unknown class, with file and line.
    """

    def __init__(self, root: str | os.PathLike[str], split: str, *, difficult: bool = True) -> None:
        self.root, self.split = Path(root), split
        lists = self.root / "ImageSets" / "Segmentation"
        file = lists / f"{split}.txt"
        if not file.is_file():
            there = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "none"
            raise FileNotFoundError(f"{file} does not exist. Lists in that folder: {there}.")
        self.names = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
        self.labels = _read_labels(self.root / "labels.csv", difficult)
        masks = [self.root / folder for folder in ("SegmentationClassAug", "SegmentationClass")]
        self.mask_folder = next((folder for folder in masks if folder.is_dir()), masks[0])
        for number, name in enumerate(self.names, 1):
            if name not in self.labels:
                raise ValueError(f"{file}, line {number}: {name!r} has no row in {self.root / 'labels.csv'}.")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> VOCPhoto:
        name = self.names[index]
        image = self.root / "JPEGImages" / f"{name}.jpg"
        return VOCPhoto(name, image, self.mask_folder / f"{name}.png", self.labels[name])


def _read_labels(path: Path, difficult: bool) -> dict[str, list[str]]:
    """{id: class names} from ``labels.csv``, in the order of ``VOC_CLASSES``."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; it holds the image-level labels: id,labels,difficult.")
    labels = {}
    with open(path, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            if not row.get("id") or row.get("labels") is None:
                raise ValueError(f"{path}, line {number}: expected the columns id,labels[,difficult], got {row}.")
            found = set(row["labels"].split())
            if difficult:
                found |= set((row.get("difficult") or "").split())
            if unknown := found - set(VOC_CLASSES):
                name = min(unknown)
                hint = did_you_mean(name, VOC_CLASSES) or f" Classes: {', '.join(VOC_CLASSES)}."
                raise ValueError(f"{path}, line {number}: unknown class {name!r}.{hint}")
            labels[row["id"]] = [name for name in VOC_CLASSES if name in found]
    return labels
