"""Photos with image-level labels, from any of the formats that data sets come in."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from crt.data.cub import read_cub
from crt.data.image_folder import read_folder
from crt.data.sample import Sample
from crt.data.table import read_table
from crt.data.voc import VOC_CLASSES, read_voc

__all__ = ["ImageDataset", "load_dataset"]

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
        """SHA-256 of the classes, the files' names and sizes, their labels and masks: the same for the same data set.

        Raises:
            FileNotFoundError: a photo is not there.
        """
        names = [[s.name, s.image.suffix, s.image.stat().st_size, s.labels] for s in self.samples]
        digest = hashlib.sha256(json.dumps([self.class_names, names]).encode())
        for sample in self.samples:
            if sample.mask is not None:
                digest.update(sample.mask.read_bytes())
        return digest.hexdigest()

    def with_masks(self, folder: PathLike) -> "ImageDataset":
        """The same photos, each with the mask ``folder/NAME.png`` (as ``crt pseudo`` writes them).

        Raises:
            FileNotFoundError: a photo has no mask there.
        """
        masks = [Path(folder) / f"{sample.name}.png" for sample in self.samples]
        if missing := [mask for mask in masks if not mask.is_file()]:
            raise FileNotFoundError(
                f"{len(missing)} of {len(masks)} photos have no mask, the first would be {missing[0]}; "
                "`crt pseudo` makes those that are missing."
            )
        both = zip(self.samples, masks, strict=True)
        return ImageDataset([sample._replace(mask=mask) for sample, mask in both], self.class_names)

    def with_classes(self, names: Sequence[str]) -> "ImageDataset":
        """The same photos with labels that index ``names``, say a model's classes, mapped by name.

        Raises:
            ValueError: ``names`` lack a class of this data set; or the samples have masks, whose values follow the
                present order, and the order changes.
        """
        if missing := [name for name in self.class_names if name not in names]:
            raise ValueError(f"the classes {', '.join(missing)} are not among {', '.join(names)}.")
        index = [list(names).index(name) for name in self.class_names]
        if index != list(range(len(index))) and any(sample.mask is not None for sample in self.samples):
            raise ValueError("the masks are numbered in the order of the present classes; attach masks afterwards.")
        samples = [s._replace(labels=sorted(index[label] for label in s.labels)) for s in self.samples]
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


def load_dataset(
    *,
    images: PathLike | None = None,
    labels: PathLike | None = None,
    voc: PathLike | None = None,
    cub: PathLike | None = None,
    split: str | None = None,
    truth: PathLike | bool | None = None,
    class_names: Sequence[str] | None = None,
    unusable: list[str] | None = None,
) -> ImageDataset:
    """The data set that a command's options name: one of ``images``, ``voc`` and ``cub``.

    Args:
        images: a folder of photos; without ``labels`` it holds a subfolder for each class.
        labels: the photos' labels: a CSV, COCO's, Label Studio's or FiftyOne's JSON, CVAT's XML (``docs/data.md``).
        voc: a folder in the layout of VOC.
        cub: a folder in the layout of CUB-200-2011.
        split: the list of ``voc`` (None: cls_train) or of ``cub`` (None: train); of class subfolders that lie in
            ``train``, ``valid`` ... one of these.
        truth: a folder of true masks, NAME.png, attached as ``Sample.mask``; True takes the data set's own (VOC).
        class_names: the K classes in the order of the labels, say a model's; names in the data set are mapped onto
            them.  None takes the data set's.
        unusable: takes what is wrong with rows of a table that cannot be used, instead of raising it.

    Raises:
        FileNotFoundError: a folder, table, photo or mask is not there.
        ValueError: none or several of ``images``, ``voc`` and ``cub``; or a data set that cannot be understood.
    """
    if sum(place is not None for place in (images, voc, cub)) != 1 or (labels is not None and images is None):
        raise ValueError("give one of --images (with --labels, or with a subfolder for each class), --voc and --cub.")
    if labels is not None and split is not None:
        raise ValueError("--list is for --voc, --cub and class subfolders; a table of labels has no lists.")
    if truth is True and voc is None:
        raise ValueError("only VOC folders hold true masks of their own; give --truth a folder of NAME.png.")
    if voc is not None:
        own = None if class_names is None or set(VOC_CLASSES) <= set(class_names) else class_names
        data = ImageDataset.from_voc(voc, split or "cls_train", masks=truth is True, class_names=own)
    elif cub is not None:
        data = ImageDataset.from_cub(cub, split or "train")
    elif images is not None and labels is not None:
        data = ImageDataset.from_table(images, labels, class_names=class_names, unusable=unusable)
    elif images is not None:
        data = ImageDataset.from_folder(images, class_names=class_names, split=split)
    if class_names is not None:
        data = data.with_classes(class_names)
    return data if truth is None or isinstance(truth, bool) else data.with_masks(truth)


def _path(place: PathLike) -> Path:
    return Path(place).expanduser()
