"""CUB-200-2011 (Wah et al., 2011), or any folder in its layout: a class and boxes for every photo."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from crt._messages import placed
from crt.data._text import name_of, text_lines
from crt.data.sample import Box, Sample

__all__ = ["read_cub"]


def read_cub(root: str | os.PathLike[str], split: str) -> tuple[list[Sample], list[str]]:
    """The training or the test photos of a folder in the layout of CUB-200-2011, and the class names.

    The folder holds ``images/`` and tables of a row a line, their columns separated by spaces: ``classes.txt`` (id,
    name), ``images.txt`` (id, path below ``images``), ``image_class_labels.txt`` (image id, class id),
    ``train_test_split.txt`` (image id, 1 = training, 0 = test) and ``bounding_boxes.txt`` (image id, x, y, width,
    height in pixels from the photo's top left corner; several rows for several objects).

    Args:
        root: the folder.
        split: "train" or "test".

    Returns:
        Samples with boxes, and the names of the K classes in the order of their ids, without the number before them
        ("001.").

    Raises:
        FileNotFoundError: a table or a photo is not there.
        ValueError: another split, or a row that cannot be understood, with file and line.
    """
    if split not in ("train", "test"):
        raise ValueError(f"the lists of the CUB layout are 'train' and 'test', got {split!r}.")
    root = Path(root)
    class_names, classes = _read_classes(root / "classes.txt")
    files = _read_once(root / "images.txt", "an image id and a path")
    labels = _read_once(root / "image_class_labels.txt", "an image id and a class id", files)
    split_table = root / "train_test_split.txt"
    kept = _read_once(split_table, "an image id and 0 or 1", files)
    boxes = _read_boxes(root / "bounding_boxes.txt", files)
    samples: list[Sample] = []
    seen: set[str] = set()
    for number, (where, file) in files.items():
        for table, known in (("image_class_labels", labels), ("train_test_split", kept), ("bounding_boxes", boxes)):
            if number not in known:
                raise ValueError(f"{where}: image {number} has no row in {root / table}.txt.")
        if file in seen:
            raise ValueError(f"{where}: {file!r} stands in the table twice.")
        seen.add(file)
        try:
            name = name_of(file)
        except ValueError as error:
            raise placed(error, where) from error
        place, label = labels[number]
        if label not in classes:
            raise ValueError(f"{place}: unknown class {label}; classes.txt has {', '.join(list(classes)[:5])}, ...")
        place, flag = kept[number]
        if flag not in ("0", "1"):
            raise ValueError(f"{place}: expected 1 (training) or 0 (test), got {flag!r}.")
        if (flag == "1") != (split == "train"):
            continue
        image = root / "images" / file
        if not image.is_file():
            raise FileNotFoundError(f"{where}: there is no photo at {image}.")
        samples.append(Sample(image, name, [classes[label]], boxes=boxes[number]))
    if not samples:
        raise ValueError(f"{split_table} has no photo of the list {split!r}.")
    return samples, class_names


def _rows(table: Path, columns: int, expected: str) -> Iterator[tuple[str, list[str]]]:
    """("FILE, line N", cells) of each row that is not empty; the last cell may hold spaces if there are two."""
    if not table.is_file():
        raise FileNotFoundError(f"{table} does not exist; each of its rows is {expected}.")
    for where, line in text_lines(table):
        cells = line.split(maxsplit=1) if columns == 2 else line.split()
        if len(cells) != columns:
            raise ValueError(f"{where}: expected {expected}, got {line!r}.")
        yield where, [cell.strip() for cell in cells]


def _read_once(
    table: Path, expected: str, images: dict[str, tuple[str, str]] | None = None
) -> dict[str, tuple[str, str]]:
    """{image id: (place, value)}; each id once, and one of ``images`` if these are given."""
    found: dict[str, tuple[str, str]] = {}
    for where, (number, value) in _rows(table, 2, expected):
        if number in found:
            raise ValueError(f"{where}: image {number} stands in the table twice.")
        if images is not None and number not in images:
            raise ValueError(f"{where}: image {number} is not in images.txt.")
        found[number] = (where, value)
    return found


def _read_classes(table: Path) -> tuple[list[str], dict[str, int]]:
    """The names, and the index of each id."""
    names: list[str] = []
    index: dict[str, int] = {}
    for where, (number, full) in _rows(table, 2, "a class id and a name"):
        name = re.sub(r"^\d+\.", "", full)
        if number in index or name in names:
            raise ValueError(f"{where}: class {number} {full!r} stands in the table twice.")
        index[number] = len(names)
        names.append(name)
    if not names:
        raise ValueError(f"{table} has no rows.")
    return names, index


def _read_boxes(table: Path, images: dict[str, tuple[str, str]]) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = {}
    expected = "an image id, x, y, width and height"
    for where, (number, *cells) in _rows(table, 5, expected):
        if number not in images:
            raise ValueError(f"{where}: image {number} is not in images.txt.")
        try:
            x, y, width, height = map(float, cells)
        except ValueError:
            raise ValueError(f"{where}: expected {expected}, got {' '.join(cells)!r}.") from None
        if not (0 < width < float("inf") and 0 < height < float("inf") and abs(x) + abs(y) < float("inf")):
            raise ValueError(f"{where}: a box has a width and a height above 0, got {' '.join(cells)!r}.")
        found.setdefault(number, []).append((x, y, x + width, y + height))
    return found
