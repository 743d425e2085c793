"""PASCAL VOC: its classes, and photos with labels and masks in its folder layout."""

import os
from collections.abc import Sequence
from pathlib import Path

from crt._messages import printable
from crt.data._photos import SUFFIXES, PhotoFinder
from crt.data._text import text_lines
from crt.data.sample import Sample
from crt.data.voc_labels import find_labels, read_labels

__all__ = ["VOC_CLASSES", "read_voc"]

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def read_voc(
    root: str | os.PathLike[str],
    split: str,
    *,
    difficult: bool = True,
    labels: str | os.PathLike[str] | None = None,
    masks: bool = False,
    class_names: Sequence[str] | None = None,
) -> tuple[list[Sample], list[str]]:
    """The samples of one list of a VOC-style folder, and the class names.

    The folder holds ``JPEGImages/NAME.jpg`` (or another suffix), ``SegmentationClassAug/NAME.png`` (or
    ``SegmentationClass``), ``ImageSets/Segmentation/LIST.txt`` (or ``Main``) with a name a line, or with paths, and
    image-level labels, the first there is of: ``labels.csv`` with the columns ``id``, ``labels`` and optionally
    ``difficult`` (class names, separated by spaces); ``cls_labels.npz`` or ``.npy`` (see
    ``crt.data.voc_labels.read_labels``); VOC's ``Annotations/NAME.xml``.

    Args:
        root: the folder.
        split: name of the list, without ".txt".
        difficult: count objects marked as difficult as present.
        labels: where the labels are, if not there: a file or a folder of one of these kinds.
        class_names: the K classes in order, if they are not VOC's.
        masks: attach the true masks, which measuring needs; they are looked for when they are read.

    Raises:
        FileNotFoundError: the folder lacks one of these; the message names it, and the lists there are.
        ValueError: a name that stands there twice, has no labels or leaves the folder, or an unknown class, with file
            and line; an empty list.
    """
    root = Path(root)
    lines = _read_list(root, split)
    source = find_labels(root) if labels is None else Path(labels)
    if not source.exists():
        raise FileNotFoundError(f"there are no labels at {printable(source)}.")
    classes = list(class_names or VOC_CLASSES)
    shown = read_labels(source, lines, classes, difficult=difficult)
    folders = [root / folder for folder in ("SegmentationClassAug", "SegmentationClass")]
    truth = next((folder for folder in folders if folder.is_dir()), folders[0])
    index = {name: i for i, name in enumerate(classes)}
    finder = PhotoFinder(root / "JPEGImages")
    samples = []
    for name, where in lines.items():
        if name not in shown:
            raise ValueError(f"{where}: '{printable(name)}' has no labels in {printable(source)}.")
        try:
            image = finder.root / finder.find(name)
        except FileNotFoundError:  # told when it is opened
            image = finder.root / f"{name}.jpg"
        found = [index[label] for label in shown[name]]
        samples.append(Sample(image, name, found, truth / f"{name}.png" if masks else None))
    return samples, classes


def _read_list(root: Path, split: str) -> dict[str, str]:
    """{name: "FILE, line N"} of a list: a name a line, or paths of a photo and its mask."""
    lists = [root / "ImageSets" / kind for kind in ("Segmentation", "Main")]
    if Path(split).name != split or split in ("", ".", ".."):
        raise ValueError(f"{split!r} is not the name of a list; lists lie in {printable(lists[0])}.")
    file = next((folder / f"{split}.txt" for folder in lists if (folder / f"{split}.txt").is_file()), None)
    if file is None:
        there = ", ".join(sorted(p.stem for folder in lists for p in folder.glob("*.txt"))) or "none"
        nested = next(iter(sorted(root.glob("VOCdevkit/VOC*")) or sorted(root.glob("VOC2*"))), None)
        hint = f" Did you mean the folder {printable(nested)}?" if nested and not lists[0].is_dir() else ""
        raise FileNotFoundError(
            f"{printable(lists[0] / split)}.txt does not exist. Lists in that folder: {printable(there)}.{hint}"
        )
    names: dict[str, str] = {}
    for where, line in text_lines(file):
        name = _name(line, where)
        if name in names:
            raise ValueError(f"{where}: '{printable(name)}' stands in the list twice.")
        names[name] = where
    if not names:
        raise ValueError(f"{printable(file)} names no photos.")
    return names


def _name(line: str, where: str) -> str:
    """The photo's name of a line: its first word, or of a path what follows JPEGImages, without a photo's suffix."""
    word = line.split()[0].replace("\\", "/")
    before, _, inside = word.rpartition("JPEGImages/")
    name = inside if before or word.startswith("JPEGImages/") else word
    if name.startswith(("/", "~")) or ":" in name[1:3]:
        name = name.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    name = stem if dot and f".{suffix.lower()}" in SUFFIXES else name
    if not name or ".." in name.split("/") or "\0" in name:
        raise ValueError(f"{where}: '{printable(word)}' leaves the folder of the photos; give names of photos in it.")
    return name
