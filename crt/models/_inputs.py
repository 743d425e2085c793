"""What users hand in, made uniform: photos of any kind to tensors, labels of any kind to multi-hot."""

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from crt._messages import placed

__all__ = ["as_multi_hot", "as_photos"]

_HIGHEST_NORMALISED = 30.0


def as_photos(images: Any, device: torch.device) -> list[Tensor]:
    """One image or several -> a list of (3, H, W) tensors: uint8 if raw, floating point if already normalised.

    Accepts a PIL image, an array, a (3, H, W) or (B, 3, H, W) tensor, or a list or tuple of these.  Tensors stay where
    they are, pictures and arrays go to ``device``.
    """
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError("expected at least one image, got an empty list.")
        photos = []
        for place, image in enumerate(images):
            try:
                photos.append(_photo(image, device))
            except (TypeError, ValueError, OSError) as error:
                raise placed(error, f"image {place} of the list") from error
        return photos
    if isinstance(images, Tensor) and images.ndim == 4:
        if not len(images):
            raise ValueError("expected at least one image, got a batch of none.")
        return list(_from_tensor(images).unbind(0))
    return [_photo(images, device)]


def _photo(image: Any, device: torch.device) -> Tensor:
    if isinstance(image, Tensor):
        if image.ndim != 3:
            raise ValueError(f"expected an image of shape (3, H, W), got {tuple(image.shape)}.")
        return _from_tensor(image)
    if isinstance(image, Image.Image):
        return _from_pil(image).to(device)
    if isinstance(image, np.ndarray):
        return _from_array(image).to(device)
    raise TypeError(
        f"expected a PIL image, a (H, W, 3) uint8 array or a (3, H, W) tensor, or a list of these; "
        f"got {type(image).__name__}. For any number of photos, one after another: CAMExtractor.stream."
    )


def _from_tensor(x: Tensor) -> Tensor:
    if x.shape[-3] == 1:
        x = x.expand(*x.shape[:-3], 3, -1, -1)  # grey
    if x.shape[-3] != 3 or 0 in x.shape:
        hint = " Arrays are (H, W, 3), tensors are (3, H, W): use .permute(2, 0, 1)." if x.shape[-1] == 3 else ""
        raise ValueError(f"expected images of shape (3, H, W) or (B, 3, H, W), got {tuple(x.shape)}.{hint}")
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise TypeError(f"expected uint8 (raw pixels) or a floating-point tensor (already normalised), got {x.dtype}.")
    x = x.detach()
    if not torch.isfinite(x).all():
        raise ValueError("the image has NaN or infinite values.")
    if x.abs().max() > _HIGHEST_NORMALISED:
        raise ValueError(
            f"a floating-point image is taken as already normalised, but this one has values up to "
            f"{x.abs().max():.1f}. For raw pixels in [0, 255] pass image.to(torch.uint8)."
        )
    return x.float()


def _from_array(x: np.ndarray) -> Tensor:
    if x.ndim not in (2, 3) or 0 in x.shape or (x.ndim == 3 and x.shape[2] not in (1, 3, 4)):
        raise ValueError(f"expected an array of shape (H, W, 3), got {x.shape}.")
    if x.dtype == np.uint16:
        x = _eight_bits(x.astype(np.float64), 65535)
    if x.dtype != np.uint8:
        raise TypeError(
            f"expected a uint8 array with pixels in [0, 255], got {x.dtype}. For values in [0, 1] pass "
            f"(255 * image).round().astype('uint8')."
        )
    return _from_pil(Image.fromarray(x.squeeze(2) if x.ndim == 3 and x.shape[2] == 1 else x))


def _from_pil(image: Image.Image) -> Tensor:
    """The picture as a viewer shows it: turned as EXIF says, transparent parts on white, 16 bits cut to 8."""
    if 0 in image.size:
        raise ValueError(f"the image is empty: {image.width} x {image.height} pixels.")
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        name = getattr(image, "filename", "") or "the image"
        raise OSError(f"{name} cannot be decoded ({error}); the file is broken or truncated.") from error
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(np.asarray(image, dtype=np.float64), 65535))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_eight_bits(np.asarray(image, dtype=np.float64)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _eight_bits(values: np.ndarray, white: float | None = None) -> np.ndarray:
    """Values of more than 8 bits -> uint8.  If the white value is not known, it is the next of 1, 255 and 65535."""
    if not np.isfinite(values).all():
        raise ValueError("the image has NaN or infinite values.")
    if white is None:
        white = next((limit for limit in (1, 255) if values.max() <= limit), 65535)
    return np.clip(values * (255 / white), 0, 255).round().astype(np.uint8)


def as_multi_hot(labels: Any, count: int, num_classes: int, class_names: Sequence[str] | None) -> Tensor | None:
    """Labels of ``count`` images -> (count, K) bool.

    Accepts None (returned as it is), a multi-hot tensor or array (count, K), or (K,) for one image; else one entry an
    image: a class name, an index, or a list of them.  For one image the entry may come without the list around it.
    """
    if labels is None:
        return None
    if isinstance(labels, np.ndarray):
        labels = torch.from_numpy(labels)
    if isinstance(labels, Tensor):
        return _check_multi_hot(labels, count, num_classes)
    if isinstance(labels, (str, int, np.integer)):
        labels = [labels]
    if not isinstance(labels, (list, tuple, set, frozenset)):
        raise TypeError(f"expected labels as a multi-hot tensor, names or indices, got {type(labels).__name__}.")
    entries = [entry.tolist() if isinstance(entry, (Tensor, np.ndarray)) else entry for entry in labels]
    nested = any(isinstance(entry, (list, tuple, set, frozenset)) for entry in entries)
    if count == 1 and not nested:
        entries = [entries]
    if len(entries) != count or (isinstance(labels, (set, frozenset)) and count > 1):
        raise ValueError(f"expected one entry of labels for each of {count} images, got {len(entries)}: {labels!r}.")
    target = torch.zeros(count, num_classes, dtype=torch.bool)
    for row, entry in zip(target, entries, strict=True):
        found = [entry] if isinstance(entry, (str, int, np.integer)) else list(entry)
        if len(found) == num_classes > 2 and set(found) <= {0, 1}:
            raise ValueError(
                f"{found} looks like multi-hot, but in a list numbers are class indices; pass torch.tensor([{found}])."
            )
        for label in found:
            row[_class_index(label, num_classes, class_names)] = True
    return target


def _check_multi_hot(labels: Tensor, count: int, num_classes: int) -> Tensor:
    shape = tuple(labels.shape)
    if shape == (num_classes,) and count == 1:
        labels = labels[None]
    elif shape != (count, num_classes):
        raise ValueError(
            f"expected multi-hot labels of shape ({count}, {num_classes}), one row an image and one column a class, "
            f"got {shape}. Class indices go in as a list with one list an image, such as [[0, 2], [5]]."
        )
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("multi-hot labels must be 0 or 1 everywhere (1 = the class is in the photo).")
    return labels.detach().bool().cpu()


def _class_index(label: Any, num_classes: int, class_names: Sequence[str] | None) -> int:
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
        if not 0 <= label < num_classes:
            raise ValueError(f"class index {label} is not in 0 to {num_classes - 1}.")
        return int(label)
    if not isinstance(label, str):
        raise TypeError(f"a label is a class name or index, got {label!r}.")
    if class_names is None:
        raise ValueError(f"the model has no class names; give {label!r} as an index, 0 to {num_classes - 1}.")
    if label in class_names:
        return list(class_names).index(label)
    near = difflib.get_close_matches(label.lower(), class_names, n=1)
    if near:
        raise ValueError(f"unknown class {label!r}. Did you mean {near[0]!r}? All names: model.class_names.")
    some = ", ".join(class_names[:30]) + (", ..." if len(class_names) > 30 else "")
    raise ValueError(f"unknown class {label!r}. The model knows: {some}.")
