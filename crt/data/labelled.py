"""Photos with image-level labels: what training needs, from the layouts that data sets come in."""

import csv
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from crt._messages import did_you_mean
from crt.data.cub import CUBLocalisation
from crt.data.listings import read_coco, read_folders
from crt.data.voc import VOC_CLASSES, VOCSegmentation

__all__ = ["LabelledPhoto", "LabelledPhotos"]


class LabelledPhoto(NamedTuple):
    """A photo's file and the indices of the classes in it, rising."""

    image: Path
    labels: list[int]


class LabelledPhotos:
    """A list of photos with the classes that each shows.

    Args:
        photos: the list.
        class_names: names of the K classes.
    """

    def __init__(self, photos: Sequence[LabelledPhoto], class_names: Sequence[str]) -> None:
        self.photos, self.class_names = list(photos), list(class_names)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> LabelledPhoto:
        return self.photos[index]

    def digest(self) -> str:
        """SHA-256 of the classes, the files' names and their labels: the same for the same data set."""
        names = [[photo.image.name, photo.labels] for photo in self.photos]
        return hashlib.sha256(json.dumps([self.class_names, names]).encode()).hexdigest()

    @classmethod
    def from_voc(cls, root: str | os.PathLike[str], split: str) -> "LabelledPhotos":
        """A list of a VOC-style folder (see ``VOCSegmentation``); difficult objects count as present."""
        data = VOCSegmentation(root, split)
        photos = [data[i] for i in range(len(data))]
        return cls([LabelledPhoto(p.image, [VOC_CLASSES.index(n) for n in p.labels]) for p in photos], VOC_CLASSES)

    @classmethod
    def from_csv(
        cls,
        folder: str | os.PathLike[str],
        table: str | os.PathLike[str],
        *,
        class_names: Sequence[str] | None = None,
    ) -> "LabelledPhotos":
        """A folder of photos and a CSV with the columns ``file`` and ``labels``.

        Args:
            folder: where the files are.
            table: a CSV, UTF-8; ``file`` is a path below ``folder``, ``labels`` class names separated by ";" or, where
                there is none, by spaces.
            class_names: the K names in order; None takes those in the table, sorted.

        Raises:
            FileNotFoundError: no such table, or it names a photo that is not there.
            ValueError: missing columns, a row without labels, an unknown or doubled entry; with file and line.
        """
        folder, table = Path(folder), Path(table)
        rows = _read_table(table)
        names = list(class_names) if class_names else sorted({name for _, _, found in rows for name in found})
        photos: dict[str, LabelledPhoto] = {}
        for number, file, found in rows:
            where = f"{table}, line {number}"
            if file in photos:
                raise ValueError(f"{where}: {file!r} stands in the table twice.")
            if not (folder / file).is_file():
                raise FileNotFoundError(f"{where}: there is no photo at {folder / file}.")
            for name in found:
                if name not in names:
                    raise ValueError(f"{where}: unknown class {name!r}.{did_you_mean(name, names)}")
            photos[file] = LabelledPhoto(folder / file, sorted({names.index(name) for name in found}))
        return cls(list(photos.values()), names)

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike[str], *, class_names: Sequence[str] | None = None
    ) -> "LabelledPhotos":
        """A folder with a subfolder of photos for each class; see ``crt.data.listings.read_folders``."""
        found, names = read_folders(folder, class_names)
        return cls._listed(Path(folder), found, names)

    @classmethod
    def from_coco(cls, folder: str | os.PathLike[str], table: str | os.PathLike[str]) -> "LabelledPhotos":
        """A folder of photos and COCO's instance annotations of them; see ``crt.data.listings.read_coco``.

        Raises:
            FileNotFoundError: no such file, or it names a photo that is not there.
            ValueError: an entry that cannot be understood, with its list and place.
        """
        found, names = read_coco(table)
        for file, _ in found:
            if not (Path(folder) / file).is_file():
                raise FileNotFoundError(f"{table}: there is no photo at {Path(folder) / file}.")
        return cls._listed(Path(folder), found, names)

    @classmethod
    def from_cub(cls, root: str | os.PathLike[str], split: str) -> "LabelledPhotos":
        """The photos "train" or "test" of a folder in the layout of CUB-200-2011; see ``CUBLocalisation``."""
        data = CUBLocalisation(root, split)
        found = [(photo.image.relative_to(data.root / "images").as_posix(), [photo.label]) for photo in data.photos]
        return cls._listed(data.root / "images", found, data.class_names)

    @classmethod
    def _listed(cls, folder: Path, found: list[tuple[str, list[int]]], names: list[str]) -> "LabelledPhotos":
        return cls([LabelledPhoto(folder / file, labels) for file, labels in found], names)


def _read_table(table: Path) -> list[tuple[int, str, list[str]]]:
    """(line, file, class names) of each row."""
    if not table.is_file():
        raise FileNotFoundError(f"there is no table at {table}; it holds the columns file,labels.")
    rows = []
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := {"file", "labels"} - set(reader.fieldnames or ()):
            raise ValueError(f"{table}, line 1: missing columns {', '.join(sorted(missing))}; expected file,labels.")
        for row in reader:
            if None in row:
                raise ValueError(
                    f"{table}, line {reader.line_num}: more cells than columns; separate labels by spaces or ';'."
                )
            cell = row["labels"] or ""
            found = [name.strip() for name in cell.split(";") if name.strip()] if ";" in cell else cell.split()
            if not row["file"] or not found:
                raise ValueError(
                    f"{table}, line {reader.line_num}: a row needs a file and at least one label, got {row}."
                )
            rows.append((reader.line_num, row["file"], found))
    if not rows:
        raise ValueError(f"{table} has no rows.")
    return rows
