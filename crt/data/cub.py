"""CUB-200-2011 (Wah et al., 2011), or any folder in its layout: a class and boxes for every photo."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from crt._messages import placed, printable
from crt.data._photos import PhotoFinder, unique_names
from crt.data._text import text_lines
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
        raise ValueError(f"the lists of the CUB layout are 'train' and 'test', got {printable(split)!r}.")
    root = Path(root)
    class_names, classes = _read_classes(root / "classes.txt")
    files = _read_once(root / "images.txt", "an image id and a path")
    labels = _read_once(root / "image_class_labels.txt", "an image id and a class id", files)
    split_table = root / "train_test_split.txt"
    kept = _read_once(split_table, "an image id and 0 or 1", files)
    boxes = _read_boxes(root / "bounding_boxes.txt", files)
    samples: list[Sample] = []
    finder, seen = PhotoFinder(root / "images"), set[str]()
    for number, (where, path) in files.items():
        for table, known in (("image_class_labels", labels), ("train_test_split", kept), ("bounding_boxes", boxes)):
            if number not in known:
                raise ValueError(f"{where}: image {printable(number)} has no row in {printable(root / table)}.txt.")
        if path in seen:
            raise ValueError(f"{where}: '{printable(path)}' stands in the table twice.")
        seen.add(path)
        place, label = labels[number]
        if label not in classes:
            some = ", ".join(list(classes)[:5])
            raise ValueError(f"{place}: unknown class {printable(label)}; classes.txt has {printable(some)}, ...")
        place, flag = kept[number]
        if flag not in ("0", "1"):
            raise ValueError(f"{place}: expected 1 (training) or 0 (test), got {printable(flag)!r}.")
        try:
            finder.inside(path)
            if (flag == "1") != (split == "train"):
                continue
            file = finder.find(path)
        except (ValueError, FileNotFoundError) as error:
            raise placed(error, where) from error
        samples.append(Sample(finder.root / file, file, [classes[label]], boxes=boxes[number]))
    if not samples:
        raise ValueError(f"{printable(split_table)} has no photo of the list {split!r}.")
    names = unique_names([sample.name for sample in samples])
    return [sample._replace(name=name) for sample, name in zip(samples, names, strict=True)], class_names


def _rows(table: Path, columns: int, expected: str) -> Iterator[tuple[str, list[str]]]:
    """("FILE, line N", cells) of each row that is not empty; the last cell may hold spaces if there are two."""
    if not table.is_file():
        raise FileNotFoundError(f"{printable(table)} does not exist; each of its rows is {expected}.")
    for where, line in text_lines(table):
        cells = line.split(maxsplit=1) if columns == 2 else line.split()
        if len(cells) != columns:
            raise ValueError(f"{where}: expected {expected}, got '{printable(line)}'.")
        yield where, [cell.strip() for cell in cells]


def _read_once(
    table: Path, expected: str, images: dict[str, tuple[str, str]] | None = None
) -> dict[str, tuple[str, str]]:
    """{image id: (place, value)}; each id once, and one of ``images`` if these are given."""
    found: dict[str, tuple[str, str]] = {}
    for where, (number, value) in _rows(table, 2, expected):
        if number in found:
            raise ValueError(f"{where}: image {printable(number)} stands in the table twice.")
        if images is not None and number not in images:
            raise ValueError(f"{where}: image {printable(number)} is not in images.txt.")
        found[number] = (where, value)
    return found


def _read_classes(table: Path) -> tuple[list[str], dict[str, int]]:
    """The names, and the index of each id."""
    names: list[str] = []
    index: dict[str, int] = {}
    seen: set[str] = set()
    for where, (number, full) in _rows(table, 2, "a class id and a name"):
        name = re.sub(r"^\d+\.", "", full)
        if number in index or name in seen:
            raise ValueError(f"{where}: class {printable(number)} {printable(full)!r} stands in the table twice.")
        index[number] = len(names)
        names.append(name)
        seen.add(name)
    if not names:
        raise ValueError(f"{printable(table)} has no rows.")
    return names, index


def _read_boxes(table: Path, images: dict[str, tuple[str, str]]) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = {}
    expected = "an image id, x, y, width and height"
    for where, (number, *cells) in _rows(table, 5, expected):
        if number not in images:
            raise ValueError(f"{where}: image {printable(number)} is not in images.txt.")
        try:
            x, y, width, height = map(float, cells)
        except ValueError:
            raise ValueError(f"{where}: expected {expected}, got {printable(' '.join(cells))!r}.") from None
        if not (0 < width < float("inf") and 0 < height < float("inf") and abs(x) + abs(y) < float("inf")):
            raise ValueError(f"{where}: a box has a width and a height above 0, got {printable(' '.join(cells))!r}.")
        found.setdefault(number, []).append((x, y, x + width, y + height))
    return found
