"""PASCAL VOC: its classes, and photos with labels and masks in its folder layout."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crt.data.tables import text_lines
from crt.data.voc_labels import find_labels, read_labels

__all__ = ["VOC_CLASSES", "VOCPhoto", "VOCSegmentation"]

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
    ``ImageSets/Segmentation/LIST.txt`` with a name a line, and image-level labels, the first there is of:
    ``labels.csv`` with the columns ``id``, ``labels`` and optionally ``difficult`` (class names, separated by spaces);
    ``cls_labels.npz`` or ``.npy`` (see ``crt.data.voc_labels.read_labels``); VOC's ``Annotations/NAME.xml``.

    Args:
        root: the folder.
        split: name of the list, without ".txt".
        difficult: count objects marked as difficult as present.
        labels: where the labels are, if not there: a file or a folder of one of these kinds.

    Raises:
        FileNotFoundError: the folder lacks one of these; the message names it, and the lists there are.
        ValueError: a name that stands there twice or has no labels, or an unknown class, with file and line; an empty
            list.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        difficult: bool = True,
        labels: str | os.PathLike[str] | None = None,
    ) -> None:
        self.root, self.split = Path(root), split
        lists = self.root / "ImageSets" / "Segmentation"
        file = lists / f"{split}.txt"
        if not file.is_file():
            there = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "none"
            raise FileNotFoundError(f"{file} does not exist. Lists in that folder: {there}.")
        lines = _read_list(file)
        self.names = list(lines)
        source = find_labels(self.root) if labels is None else Path(labels)
        if not source.exists():
            raise FileNotFoundError(f"there are no labels at {source}.")
        self.labels = read_labels(source, self.names, VOC_CLASSES, difficult=difficult)
        masks = [self.root / folder for folder in ("SegmentationClassAug", "SegmentationClass")]
        self.mask_folder = next((folder for folder in masks if folder.is_dir()), masks[0])
        for name, where in lines.items():
            if name not in self.labels:
                raise ValueError(f"{where}: {name!r} has no labels in {source}.")

    def __iter__(self) -> Iterator[VOCPhoto]:
        return map(self.__getitem__, range(len(self)))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> VOCPhoto:
        name = self.names[index]
        image = self.root / "JPEGImages" / f"{name}.jpg"
        return VOCPhoto(name, image, self.mask_folder / f"{name}.png", self.labels[name])


def _read_list(file: Path) -> dict[str, str]:
    """{name: "FILE, line N"} of a list, a name a line."""
    names: dict[str, str] = {}
    for where, line in text_lines(file):
        name = line.split()[0]
        if name in names:
            raise ValueError(f"{where}: {name!r} stands in the list twice.")
        names[name] = where
    if not names:
        raise ValueError(f"{file} names no photos.")
    return names
