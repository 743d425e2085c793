"""Which images ``crt eval`` measures, and against which ground truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from crt.data import ImageDataset

__all__ = ["Source", "images_with_masks", "name_refiner", "title_worst", "truth_masks"]


class Source(NamedTuple):
    """The options that name a data set, as they were given."""

    images: Path | None
    labels: Path | None
    voc: Path | None
    cub: Path | None
    split: str | None
    truth: Path | None = None

    @property
    def root(self) -> str:
        """For records: the name of the folder."""
        folder = self.voc or self.cub or self.images or self.truth
        return "" if folder is None else folder.resolve().name

    @property
    def title(self) -> str:
        """For titles: the list, or the folder where there is none."""
        return self.split or self.root

    def load(self, class_names: Sequence[str] | None = None, *, masks: bool = False) -> "ImageDataset":
        """The data set; with ``masks``, each image with its ground-truth mask.

        Raises:
            FileNotFoundError, ValueError: as ``crt.data.load_dataset``; --voc without --list; no ground truth.
        """
        from crt.data import load_dataset

        if self.voc is not None and self.split is None:
            raise ValueError("--voc needs --list: a file in ImageSets/Segmentation, such as train.")
        if masks and self.truth is None and self.voc is None and (self.images or self.cub):
            raise ValueError("give --truth, the folder of ground-truth masks (NAME.png).")
        truth: Path | bool | None = self.truth if self.truth is not None or not masks else True
        return load_dataset(**{**self._asdict(), "truth": truth}, class_names=class_names)


def images_with_masks(source: Source, class_names: Sequence[str] | None) -> "ImageDataset":
    """The data set with ground-truth masks, for measuring masks: labels are not needed, nor are the images.

    Raises:
        FileNotFoundError, ValueError: as ``Source.load`` and ``truth_masks``.
    """
    if source.truth is None or source.voc is not None or source.cub is not None or source.labels is not None:
        return source.load(class_names, masks=True)
    if class_names is None:
        raise ValueError("give --classes, the class names in the order of the mask values 1, 2, ...")
    return truth_masks(source.truth, source.images, class_names)


def truth_masks(truth: Path, images: Path | None, class_names: Sequence[str]) -> "ImageDataset":
    """A folder of ground-truth masks as a data set; each image is the file of the mask's name below ``images``.

    Without ``images`` the masks stand in their place: nothing but their names is used then.

    Raises:
        FileNotFoundError: no such folder, no masks in it, or a mask without an image.
    """
    from crt.data import ImageDataset, Sample

    masks = sorted(mask for mask in truth.rglob("*.png") if mask.is_file() and not mask.name.startswith("."))
    if not masks:
        raise FileNotFoundError(f"--truth {truth}: there are no masks (.png) in this folder.")
    names = [mask.relative_to(truth).with_suffix("").as_posix() for mask in masks]
    found = {}
    if images is not None:
        files = (file for file in sorted(images.rglob("*")) if file.is_file())
        found = {file.relative_to(images).with_suffix("").as_posix(): file for file in files}
        if missing := [name for name in names if name not in found]:
            raise FileNotFoundError(f"--images {images}: {len(missing)} masks have no image, such as {missing[0]}.")
    both = zip(masks, names, strict=True)
    samples = [Sample(image=found.get(name, mask), name=name, labels=[], mask=mask) for mask, name in both]
    return ImageDataset(samples, list(class_names))


def name_refiner(refine: str) -> str:
    """What a title says of the refiner."""
    return "" if refine == "none" else f" refined by {refine}"


def title_worst(low: Sequence[object], title: str) -> str:
    """The title of a sheet of the worst photos."""
    return f"The worst {len(low)} photos. {title}"
