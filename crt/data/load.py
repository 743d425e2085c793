"""The data set that a command's options name."""

import os
from collections.abc import Sequence

from crt.data.dataset import ImageDataset
from crt.data.voc import VOC_CLASSES

__all__ = ["load_dataset"]

PathLike = str | os.PathLike[str]


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
