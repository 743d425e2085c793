"""Photos with image-level labels, from any of the formats that data sets come in."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from crt._messages import did_you_mean, printable
from crt.data._content import digest_files
from crt.data._photos import PhotoFinder
from crt.data.cub import read_cub
from crt.data.image_folder import read_folder
from crt.data.sample import Sample
from crt.data.table import read_table
from crt.data.voc import read_voc

__all__ = ["ImageDataset"]

_log = logging.getLogger(__name__)
PathLike = str | os.PathLike[str]


class ImageDataset:
    """A list of photos with the classes that each shows.

    Args:
        samples: the list.
        class_names: names of the K classes.
    """

    def __init__(self, samples: Sequence[Sample], class_names: Sequence[str]) -> None:
        self.samples, self.class_names = list(samples), list(class_names)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def digest(self) -> str:
        """SHA-256 of the classes and of each photo's name, content, labels and mask: the same for the same data set.

        Where the photos are, and when they were written, does not count.  Content is every byte while photos and masks
        are 4 GiB or less together; of larger sets it is each file's size and its first and last 64 KiB.

        Raises:
            FileNotFoundError: a photo or a mask is not there.
            OSError: one cannot be read.
        """
        files = [file for s in self.samples for file in (s.image, s.mask) if file is not None]
        names = [[s.name, s.image.suffix, s.labels, s.mask is not None] for s in self.samples]
        digest = hashlib.sha256(json.dumps([self.class_names, names]).encode())
        for part in digest_files(files):
            digest.update(part)
        return digest.hexdigest()

    def check_trainable(self, *, force: bool = False) -> None:
        """Refuses labels from which a class cannot be learned: there must be photos with it and photos without.

        Args:
            force: say so in the log instead.

        Raises:
            ValueError: a class that all photos show, or none; with one class, no photo without it (a negative).
        """
        if not self.samples:
            raise ValueError("the data set has no photos.")
        counts = [0] * len(self.class_names)
        for sample in self.samples:
            for label in sample.labels:
                counts[label] += 1
        everywhere = [name for name, count in zip(self.class_names, counts, strict=True) if count == len(self)]
        nowhere = [name for name, count in zip(self.class_names, counts, strict=True) if count == 0]
        faults = []
        if everywhere:
            faults.append(
                f"all {len(self)} photos show {_listed(everywhere)}, so nothing tells a model what it looks like: add "
                "photos without it (with other classes, or negatives: an empty labels cell, a folder 'negatives')"
            )
        if nowhere:
            faults.append(f"no photo shows {_listed(nowhere)}: add some, or leave the class out")
        if faults and force:
            _log.warning("%s.", "; ".join(faults))
        elif faults:
            raise ValueError(f"{'; '.join(faults)}. To train all the same: force=True (--force).")

    def with_masks(self, folder: PathLike) -> "ImageDataset":
        """The same photos, each with the mask ``folder/NAME.png`` (as ``crt pseudo`` writes them).

        Raises:
            FileNotFoundError: a photo has no mask there.
        """
        root = _path(folder)
        finder = PhotoFinder(root)
        files = [f"{sample.name}.png" for sample in self.samples]
        missing = [file for file in files if not finder.has(file)]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(files)} photos have no mask, the first would be "
                f"{printable(root / missing[0])}; `crt pseudo` makes those that are missing."
            )
        samples = [s._replace(mask=root / file) for s, file in zip(self.samples, files, strict=True)]
        return ImageDataset(samples, self.class_names)

    def with_classes(self, names: Sequence[str]) -> "ImageDataset":
        """The same photos with labels that index ``names``, say a model's classes, mapped by name.

        Raises:
            ValueError: ``names`` lack a class of this data set that a photo shows; or the samples have masks, whose
                values follow the present order, and the order changes.
        """
        names, index = list(names), {name: i for i, name in enumerate(names)}
        used = {label for sample in self.samples for label in sample.labels}
        if missing := [name for i, name in enumerate(self.class_names) if name not in index and i in used]:
            hint = did_you_mean(missing[0], names) or f" Classes: {printable(', '.join(names))}."
            raise ValueError(f"unknown class {_listed(missing)}.{hint}")
        order = [index.get(name, -1) for name in self.class_names]
        if order != list(range(len(order))) and any(sample.mask is not None for sample in self.samples):
            raise ValueError("the masks are numbered in the order of the present classes; attach masks afterwards.")
        samples = [s._replace(labels=sorted(order[label] for label in s.labels)) for s in self.samples]
        return ImageDataset(samples, names)

    @classmethod
    def from_voc(
        cls,
        root: PathLike,
        split: str,
        *,
        difficult: bool = True,
        labels: PathLike | None = None,
        masks: bool = False,
        class_names: Sequence[str] | None = None,
    ) -> "ImageDataset":
        """The photos of one list of a VOC-style folder; see ``crt.data.voc.read_voc``.

        ``masks=True`` attaches the true masks, for measuring.  Training reads attached masks, so leave it out there.
        """
        source = None if labels is None else _path(labels)
        found = read_voc(_path(root), split, difficult=difficult, labels=source, masks=masks, class_names=class_names)
        return cls(*found)

    @classmethod
    def from_csv(
        cls,
        folder: PathLike,
        table: PathLike,
        *,
        class_names: Sequence[str] | None = None,
        unusable: list[str] | None = None,
    ) -> "ImageDataset":
        """A folder of photos and a CSV of their labels (``file,labels``, one-hot and others: ``docs/data.md``).

        Args:
            folder: where the files are.
            table: a CSV in UTF-8, separated by commas, semicolons or tabs; a file is a path below ``folder``; labels
                are separated by ";", "|" or ",", the same in the whole table, or by spaces where none of these occurs.
                A photo without labels is a negative.
            class_names: the K names in order; None takes those in the table, sorted (2, 9, 10).
            unusable: takes what is wrong with rows that cannot be used; they are left out then, and not raised.

        Raises:
            FileNotFoundError: no such table, or it names a photo that is not there.
            ValueError: missing columns, an unknown or doubled entry, a class that looks like an accident, a file
                outside the folder; with file and line.
        """
        return cls(*read_table(folder, table, class_names=class_names, unusable=unusable, kind="csv"))

    @classmethod
    def from_coco(
        cls,
        folder: PathLike,
        table: PathLike,
        *,
        class_names: Sequence[str] | None = None,
        unusable: list[str] | None = None,
    ) -> "ImageDataset":
        """A folder of photos and COCO's instance annotations of them; see ``crt.data.coco.read_coco``."""
        return cls(*read_table(folder, table, class_names=class_names, unusable=unusable, kind="coco"))

    @classmethod
    def from_table(
        cls,
        folder: PathLike,
        table: PathLike,
        *,
        class_names: Sequence[str] | None = None,
        unusable: list[str] | None = None,
    ) -> "ImageDataset":
        """A folder of photos and a table of any kind that ``crt.data.table.read_table`` knows, by its content.

        These are CSVs, COCO's JSON, Label Studio's, FiftyOne's, and CVAT's XML; arguments and errors are those of
        ``from_csv``.
        """
        return cls(*read_table(folder, table, class_names=class_names, unusable=unusable))

    @classmethod
    def from_folder(
        cls, folder: PathLike, *, class_names: Sequence[str] | None = None, split: str | None = None
    ) -> "ImageDataset":
        """A folder with a subfolder of photos for each class; see ``crt.data.image_folder.read_folder``."""
        return cls(*read_folder(_path(folder), class_names=class_names, split=split))

    @classmethod
    def from_cub(cls, root: PathLike, split: str) -> "ImageDataset":
        """The photos "train" or "test" of a folder in the layout of CUB-200-2011; see ``crt.data.cub.read_cub``."""
        return cls(*read_cub(_path(root), split))


def _listed(names: Sequence[str]) -> str:
    return printable(", ".join(repr(name) for name in names))


def _path(place: PathLike) -> Path:
    return Path(place).expanduser()
