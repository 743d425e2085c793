"""Class labels in every form that people have them, made uniform: (B, K) multi-hot."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from crt._messages import did_you_mean, printable

__all__ = ["Label", "LabelsLike", "to_multi_hot"]

Label: TypeAlias = str | int | np.integer
"""A class name, or a class index from 0."""
_Labels: TypeAlias = Sequence[Label] | AbstractSet[Label]
LabelsLike: TypeAlias = Tensor | np.ndarray | Label | _Labels | Sequence[_Labels]
"""Labels of one image or of several, see ``to_multi_hot``."""


def to_multi_hot(
    labels: LabelsLike | None, num_images: int, num_classes: int, class_names: Sequence[str] | None = None
) -> Tensor | None:
    """Labels of images -> (num_images, num_classes) bool, on the CPU.

    A list means one thing: a flat list (or tuple, or set) of names and indices has the labels of **one** image; the
    labels of several images are a list with one list an image.

    Args:
        labels: None (returned as it is); a multi-hot tensor or array (B, K), or (K,) for one image; for one image a
            name, an index, or a list, tuple or set of them; for B images a list of B such lists.
        num_images: B.
        num_classes: K.
        class_names: K names, or None for a model without names, which takes indices only.

    Raises:
        TypeError, ValueError: labels that cannot be understood, unknown classes; the message says what to do.

    >>> to_multi_hot(["cat", "dog"], 1, 3, ["cat", "dog", "cow"])
    tensor([[ True,  True, False]])
    >>> to_multi_hot([["cat"], ["cow"]], 2, 3, ["cat", "dog", "cow"])
    tensor([[ True, False, False],
            [False, False,  True]])
    """
    if labels is None:
        return None
    if isinstance(labels, np.ndarray):
        labels = torch.from_numpy(labels) if labels.dtype.kind in "biuf" else labels.tolist()
    if isinstance(labels, Tensor):
        return _check_multi_hot(labels, num_images, num_classes)
    if isinstance(labels, (str, int, np.integer)):
        labels = [labels]
    if not isinstance(labels, (list, tuple, set, frozenset)):
        raise TypeError(f"expected labels as a multi-hot tensor, names or indices, got {type(labels).__name__}.")
    target = torch.zeros(num_images, num_classes, dtype=torch.bool)
    for row, entry in zip(target, _entries(labels, num_images), strict=True):
        digits = all(isinstance(value, int) for value in entry) and set(entry) <= {0, 1}
        if digits and len(entry) == num_classes > 1 and entry != [0, 1]:
            raise ValueError(
                f"{entry} looks like multi-hot, but in a list numbers are class indices; pass torch.tensor([{entry}])."
            )
        for label in entry:
            row[_class_index(label, num_classes, class_names)] = True
    return target


def _entries(labels: Any, num_images: int) -> list[list[Any]]:
    """One list of labels for each image."""
    entries = [entry.tolist() if isinstance(entry, (Tensor, np.ndarray)) else entry for entry in labels]
    nested = [isinstance(entry, (list, tuple, set, frozenset)) for entry in entries]
    if any(nested) and not all(nested):
        raise TypeError(
            f"labels mix lists and single labels: {printable(repr(labels))}. Give each image its own list, such as "
            f"[['cat'], ['dog', 'cow']]."
        )
    if entries and all(nested):
        if len(entries) != num_images:
            raise ValueError(f"expected one list of labels for each of {num_images} images, got {len(entries)}.")
        return [list(entry) for entry in entries]
    if num_images != 1:
        each = ", ".join(f"[{printable(repr(entry), 60)}]" for entry in entries[:2]) or "[], []"
        raise ValueError(
            f"expected one list of labels for each of {num_images} images, got a flat list, which has the labels of "
            f"one image. For one label an image: [{each}{', ...' if num_images > 2 else ''}]. For all of them in every "
            f"image: [labels] * {num_images}."
        )
    return [entries]


def _check_multi_hot(labels: Tensor, num_images: int, num_classes: int) -> Tensor:
    shape = tuple(labels.shape)
    if shape == (num_classes,) and num_images == 1:
        labels = labels[None]
    elif shape != (num_images, num_classes):
        raise ValueError(
            f"expected multi-hot labels of shape ({num_images}, {num_classes}), one row an image and one column a "
            f"class, got {shape}. Class indices go in as a list with one list an image, such as [[0, 2], [5]]."
        )
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("multi-hot labels must be 0 or 1 everywhere (1 = the class is in the photo).")
    return labels.detach().bool().cpu()


def _class_index(label: Any, num_classes: int, class_names: Sequence[str] | None) -> int:
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
        if not 0 <= label < num_classes:
            raise ValueError(f"class index {label} is not in 0 to {num_classes - 1}.")
        return int(label)
    shown = printable(repr(label), 100)
    if not isinstance(label, str):
        raise TypeError(f"a label is a class name or index, got {shown}; multi-hot labels go in as a tensor.")
    if class_names is None:
        raise ValueError(f"the model has no class names; give {shown} as an index, 0 to {num_classes - 1}.")
    if label in class_names:
        return list(class_names).index(label)
    if near := did_you_mean(label[:100].lower(), class_names):
        raise ValueError(f"unknown class {shown}.{near} All names: model.class_names.")
    some = ", ".join(printable(name, 40) for name in class_names[:30]) + (", ..." if len(class_names) > 30 else "")
    raise ValueError(f"unknown class {shown}. The model knows: {some}.")
