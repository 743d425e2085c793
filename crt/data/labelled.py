"""Photos with image-level labels: what training needs, from the layouts that data sets come in."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from crt._messages import did_you_mean, placed
from crt.data.cub import CUBLocalisation
from crt.data.listings import read_coco, read_folders
from crt.data.tables import name_of, table_rows
from crt.data.voc import VOC_CLASSES, VOCSegmentation

__all__ = ["LabelledPhoto", "LabelledPhotos"]


class LabelledPhoto(NamedTuple):
    """A photo, and what is known of it.

    Attributes:
        image: the file.
        labels: indices of the classes in it, rising.
        name: the file's path in its data set, without suffix; the photo's mask is called so.
        mask: a PNG of pseudo labels (0 background, class i as i + 1, 255 unknown), or None.
    """

    image: Path
    labels: list[int]
    name: str
    mask: Path | None = None


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
        """SHA-256 of the classes, the files' names and sizes, their labels and masks: the same for the same data set.

        Raises:
            FileNotFoundError: a photo is not there.
        """
        names = [[p.name, p.image.suffix, p.image.stat().st_size, p.labels] for p in self.photos]
        digest = hashlib.sha256(json.dumps([self.class_names, names]).encode())
        for photo in self.photos:
            if photo.mask is not None:
                digest.update(photo.mask.read_bytes())
        return digest.hexdigest()

    def with_masks(self, folder: str | os.PathLike[str]) -> "LabelledPhotos":
        """The same photos with their pseudo masks, ``folder/NAME.png`` (as ``crt pseudo`` writes them).

        Raises:
            FileNotFoundError: a photo has no mask there.
        """
        masks = [Path(folder) / f"{photo.name}.png" for photo in self.photos]
        if missing := [mask for mask in masks if not mask.is_file()]:
            raise FileNotFoundError(
                f"{len(missing)} of {len(masks)} photos have no mask, the first would be {missing[0]}; "
                "`crt pseudo` makes those that are missing."
            )
        both = zip(self.photos, masks, strict=True)
        return LabelledPhotos([photo._replace(mask=mask) for photo, mask in both], self.class_names)

    @classmethod
    def from_voc(cls, root: str | os.PathLike[str], split: str) -> "LabelledPhotos":
        """A list of a VOC-style folder (see ``VOCSegmentation``); difficult objects count as present."""
        data = VOCSegmentation(root, split)
        photos = [data[i] for i in range(len(data))]
        found = [LabelledPhoto(p.image, [VOC_CLASSES.index(n) for n in p.labels], p.image.stem) for p in photos]
        return cls(found, VOC_CLASSES)

    @classmethod
    def from_csv(
        cls,
        folder: str | os.PathLike[str],
        table: str | os.PathLike[str],
        *,
        class_names: Sequence[str] | None = None,
        unusable: list[str] | None = None,
    ) -> "LabelledPhotos":
        """A folder of photos and a CSV with the columns ``file`` and ``labels``.

        Args:
            folder: where the files are.
            table: a CSV, UTF-8; ``file`` is a path below ``folder``, ``labels`` class names separated by ";" or, where
                there is none, by spaces.
            class_names: the K names in order; None takes those in the table, sorted.
            unusable: takes what is wrong with rows that cannot be used; they are left out then, and not raised.

        Raises:
            FileNotFoundError: no such table, or it names a photo that is not there.
            ValueError: missing columns, a row without labels, an unknown or doubled entry, a file outside the folder;
                with file and line.
        """
        folder, table = Path(folder), Path(table)
        rows = _read_table(table)
        names = list(class_names) if class_names else sorted({name for row in rows for name in row.labels})
        photos: dict[str, LabelledPhoto] = {}
        for row in rows:
            try:
                photo = _labelled(folder, row, names)
                if photos.setdefault(photo.image.as_posix(), photo) is not photo:
                    raise ValueError(f"{row.file!r} stands in the table twice.")
            except (ValueError, FileNotFoundError) as error:
                if unusable is None:
                    raise placed(error, row.where) from error
                unusable.append(f"{row.where}: {error}")
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
        try:
            return cls._listed(Path(folder), found, names)
        except ValueError as error:
            raise placed(error, f"{table}, images") from error

    @classmethod
    def from_cub(cls, root: str | os.PathLike[str], split: str) -> "LabelledPhotos":
        """The photos "train" or "test" of a folder in the layout of CUB-200-2011; see ``CUBLocalisation``."""
        data = CUBLocalisation(root, split)
        return cls([LabelledPhoto(p.image, [p.label], p.name) for p in data.photos], data.class_names)

    @classmethod
    def _listed(cls, folder: Path, found: list[tuple[str, list[int]]], names: list[str]) -> "LabelledPhotos":
        photos = [LabelledPhoto(folder / file, labels, name_of(file)) for file, labels in found]
        return cls(photos, names)


class _Row(NamedTuple):
    where: str
    file: str
    labels: list[str]
    extra: bool


def _labelled(folder: Path, row: _Row, names: list[str]) -> LabelledPhoto:
    """The photo of a row; an error says what is wrong with it."""
    if row.extra:
        raise ValueError("more cells than columns; separate labels by spaces or ';'.")
    if not row.file or not row.labels:
        raise ValueError(f"a row needs a file and at least one label, got {row.file!r} and {row.labels}.")
    for name in row.labels:
        if name.endswith(","):
            raise ValueError(f"the label {name!r} has a comma; separate labels by spaces or ';'.")
        if name not in names:
            raise ValueError(f"unknown class {name!r}.{did_you_mean(name, names)}")
    if not (folder / row.file).is_file():
        raise FileNotFoundError(f"there is no photo at {folder / row.file}.")
    indices = sorted({names.index(name) for name in row.labels})
    return LabelledPhoto(folder / row.file, indices, name_of(row.file))


def _read_table(table: Path) -> list[_Row]:
    """The rows as they stand there."""
    if not table.is_file():
        raise FileNotFoundError(f"there is no table at {table}; it holds the columns file,labels.")
    rows = []
    for where, row in table_rows(table, ("file", "labels")):
        cell = row["labels"] or ""
        found = [name.strip() for name in cell.split(";") if name.strip()] if ";" in cell else cell.split()
        rows.append(_Row(where, row["file"] or "", found, None in row))
    if not rows:
        raise ValueError(f"{table} has no rows.")
    return rows
