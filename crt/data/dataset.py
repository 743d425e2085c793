"""Photos with image-level labels, from any of the formats that data sets come in."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from crt.data.coco import read_coco
from crt.data.csv import read_csv
from crt.data.cub import read_cub
from crt.data.image_folder import read_folder
from crt.data.sample import Sample
from crt.data.voc import read_voc

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
    ) -> "ImageDataset":
        """The photos of one list of a VOC-style folder; see ``crt.data.voc.read_voc``.

        ``masks=True`` attaches the true masks, for measuring.  Training reads attached masks, so leave it out there.
        """
        return cls(*read_voc(root, split, difficult=difficult, labels=labels, masks=masks))

    @classmethod
    def from_csv(
        cls,
        folder: PathLike,
        table: PathLike,
        *,
        class_names: Sequence[str] | None = None,
        unusable: list[str] | None = None,
    ) -> "ImageDataset":
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
        return cls(*read_csv(folder, table, class_names=class_names, unusable=unusable))

    @classmethod
    def from_folder(cls, folder: PathLike, *, class_names: Sequence[str] | None = None) -> "ImageDataset":
        """A folder with a subfolder of photos for each class; see ``crt.data.image_folder.read_folder``."""
        return cls(*read_folder(folder, class_names=class_names))

    @classmethod
    def from_coco(cls, folder: PathLike, table: PathLike) -> "ImageDataset":
        """A folder of photos and COCO's instance annotations of them; see ``crt.data.coco.read_coco``."""
        return cls(*read_coco(folder, table))

    @classmethod
    def from_cub(cls, root: PathLike, split: str) -> "ImageDataset":
        """The photos "train" or "test" of a folder in the layout of CUB-200-2011; see ``crt.data.cub.read_cub``."""
        return cls(*read_cub(root, split))


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
        labels: the photos' labels: a CSV with the columns file,labels or COCO's instances (.json).
        voc: a folder in the layout of VOC.
        cub: a folder in the layout of CUB-200-2011.
        split: the list of ``voc`` (None: cls_train) or of ``cub`` (None: train).
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
    if images is not None and split is not None:
        raise ValueError("--list is for --voc and --cub.")
    if truth is True and voc is None:
        raise ValueError("only VOC folders hold true masks of their own; give --truth a folder of NAME.png.")
    if voc is not None:
        data = ImageDataset.from_voc(voc, split or "cls_train", masks=truth is True)
    elif cub is not None:
        data = ImageDataset.from_cub(cub, split or "train")
    elif labels is None:
        data = ImageDataset.from_folder(images, class_names=class_names)  # type: ignore[arg-type]
    elif Path(labels).suffix == ".json":
        data = ImageDataset.from_coco(images, labels)  # type: ignore[arg-type]
    else:
        data = ImageDataset.from_csv(images, labels, class_names=class_names, unusable=unusable)  # type: ignore[arg-type]
    if class_names is not None:
        data = data.with_classes(class_names)
    return data if truth is None or isinstance(truth, bool) else data.with_masks(truth)
