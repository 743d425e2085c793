"""PASCAL VOC: its classes, and photos with labels and masks in its folder layout."""

import os
from pathlib import Path

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
) -> tuple[list[Sample], list[str]]:
    """The samples of one list of a VOC-style folder, and the class names.

    The folder holds ``JPEGImages/NAME.jpg``, ``SegmentationClassAug/NAME.png`` (or ``SegmentationClass``),
    ``ImageSets/Segmentation/LIST.txt`` with a name a line, and image-level labels, the first there is of:
    ``labels.csv`` with the columns ``id``, ``labels`` and optionally ``difficult`` (class names, separated by spaces);
    ``cls_labels.npz`` or ``.npy`` (see ``crt.data.voc_labels.read_labels``); VOC's ``Annotations/NAME.xml``.

    Args:
        root: the folder.
        split: name of the list, without ".txt".
        difficult: count objects marked as difficult as present.
        labels: where the labels are, if not there: a file or a folder of one of these kinds.
        masks: attach the true masks, which measuring needs; they are looked for when they are read.

    Raises:
        FileNotFoundError: the folder lacks one of these; the message names it, and the lists there are.
        ValueError: a name that stands there twice or has no labels, or an unknown class, with file and line; an empty
            list.
    """
    root = Path(root)
    lists = root / "ImageSets" / "Segmentation"
    file = lists / f"{split}.txt"
    if not file.is_file():
        there = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"{file} does not exist. Lists in that folder: {there}.")
    lines = _read_list(file)
    source = find_labels(root) if labels is None else Path(labels)
    if not source.exists():
        raise FileNotFoundError(f"there are no labels at {source}.")
    shown = read_labels(source, lines, VOC_CLASSES, difficult=difficult)
    folders = [root / folder for folder in ("SegmentationClassAug", "SegmentationClass")]
    truth = next((folder for folder in folders if folder.is_dir()), folders[0])
    index = {name: i for i, name in enumerate(VOC_CLASSES)}
    samples = []
    for name, where in lines.items():
        if name not in shown:
            raise ValueError(f"{where}: {name!r} has no labels in {source}.")
        image, found = root / "JPEGImages" / f"{name}.jpg", [index[label] for label in shown[name]]
        samples.append(Sample(image, name, found, truth / f"{name}.png" if masks else None))
    return samples, list(VOC_CLASSES)


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
