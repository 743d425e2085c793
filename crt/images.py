"""Images in every form that people have them, made uniform: (3, H, W) tensors of uint8 pixels or normalized floats.

``open_image`` is the one place of the library that opens image files.  It reads the raster formats that photos come in
(``FORMATS``) and no other: Pillow would start Ghostscript for an EPS, whatever the file is called.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, Union

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from crt._files import require_regular
from crt._messages import placed, printable

__all__ = [
    "FORMATS",
    "ImageLike",
    "ImagesLike",
    "check_pixels",
    "denormalize",
    "image_size",
    "normalize",
    "open_image",
    "resize",
    "shrink_factor",
    "to_tensor",
    "to_tensors",
    "to_unit",
]

ImageLike: TypeAlias = Union[Image.Image, np.ndarray, Tensor, str, "os.PathLike[str]"]
"""One image: a PIL image, a (H, W, 3) uint8 array, a (3, H, W) tensor (uint8, or normalized floats), or a file."""
ImagesLike: TypeAlias = ImageLike | Sequence[ImageLike]
"""One image, a list or tuple of images that may differ in size, or a (B, 3, H, W) tensor."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # MPO, of two pictures in a JPEG, is read as JPEG
_HIGHEST_NORMALIZED = 30.0
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_UNIT = (-0.01, 1.01)  # [0, 1], and what resizing adds to it
_ORIENTATION = 0x0112  # EXIF's tag; 5 to 8 change width and height
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF's orientation -> Pillow's ``Transpose``


def open_image(path: str | os.PathLike[str], *, max_side: int | None = None) -> Tensor:
    """Reads an image file as a viewer shows it: turned as EXIF says, transparent parts on white, 16 bits cut to 8.

    Args:
        path: a regular file in one of ``FORMATS``, whatever its suffix says.
        max_side: longest side of the result in pixels; a larger image is reduced.  None keeps its size.

    Returns:
        (3, H, W) uint8.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: not a regular file, not one of the formats, broken, empty, or so large that it is refused (Pillow's
            ``Image.MAX_IMAGE_PIXELS``, twice; ``check_pixels``); the message names the file.
    """
    file, name = require_regular(path), printable(path)
    with _reading(name), Image.open(file, formats=FORMATS) as image:
        check_pixels(image, file)
        if max_side is not None:
            image.draft("RGB", (max_side, max_side))  # a large JPEG is decoded at a fraction of its size
        return _from_pil(image, max_side)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """OSError that names the file, whatever goes wrong inside."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Image.UnidentifiedImageError:
        raise OSError(
            f"{name} cannot be read as a photo: it is not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}."
        ) from None
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        reason = str(error) or type(error).__name__
        raise OSError(f"{name} cannot be read as a photo: {printable(reason, 300)}") from error


def check_pixels(image: Image.Image, file: Path) -> None:
    """ValueError if an image that is not decoded yet has far more pixels than its file can tell of (10 000 a byte)."""
    pixels, held = image.width * image.height, file.stat().st_size
    if pixels > max(10_000_000, 10_000 * held):
        raise ValueError(f"it claims {image.width} x {image.height} pixels in {held} bytes.")


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) of what ``open_image`` reads without ``max_side``; only the head of the file is read.

    Raises:
        FileNotFoundError, OSError: as for ``open_image``.
    """
    file, name = require_regular(path), printable(path)
    with _reading(name), Image.open(file, formats=FORMATS) as image:
        turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)


def to_tensors(images: ImagesLike, *, device: torch.device | None = None, max_side: int | None = None) -> list[Tensor]:
    """One image or several -> a list of (3, H, W) tensors: uint8 (raw pixels), or float32 (already normalized).

    Args:
        images: one image in any form of ``ImageLike``, a list or tuple of them, or a (B, 3, H, W) tensor.
        device: where what is not a tensor goes; tensors stay where they are.
        max_side: images from files and PIL images are reduced to it, see ``open_image``.

    Raises:
        TypeError, ValueError, OSError: as ``to_tensor``; in a list, the message has the image's place.
    """
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError("expected at least one image, got an empty list.")
        tensors = []
        for place, image in enumerate(images):
            try:
                tensors.append(to_tensor(image, device=device, max_side=max_side))
            except (TypeError, ValueError, OSError) as error:
                raise placed(error, f"image {place} of the list") from error
        return tensors
    if isinstance(images, Tensor) and images.ndim == 4:
        if not len(images):
            raise ValueError("expected at least one image, got a batch of no images.")
        return [_from_tensor(image) for image in images]
    return [to_tensor(images, device=device, max_side=max_side)]  # type: ignore[arg-type]


def to_tensor(image: ImageLike, *, device: torch.device | None = None, max_side: int | None = None) -> Tensor:
    """One image -> (3, H, W): uint8 (raw pixels), or float32 (already normalized).

    A floating-point tensor is taken as normalized, so one whose values all lie in [0, 1] is refused: it is nearly
    always what ``ToTensor`` gives.

    Args:
        image: see ``ImageLike``; grey tensors (1, H, W) are repeated.
        device: where what is not a tensor goes.
        max_side: files and PIL images are reduced to it, see ``open_image``.

    Raises:
        TypeError, ValueError: it cannot be understood as an image; the message says what to do.
        OSError: a file that cannot be read, see ``open_image``.
    """
    if isinstance(image, Tensor):
        if image.ndim != 3:
            raise ValueError(f"expected an image of shape (3, H, W), got {tuple(image.shape)}.")
        return _from_tensor(image)
    if isinstance(image, Image.Image):
        return _from_pil(image, max_side).to(device)
    if isinstance(image, np.ndarray):
        return _from_array(image).to(device)
    if isinstance(image, (str, os.PathLike)):
        return open_image(image, max_side=max_side).to(device)
    raise TypeError(
        f"expected a PIL image, a (H, W, 3) uint8 array, a (3, H, W) tensor or a file name, or a list of these; "
        f"got {type(image).__name__}. For any number of photos, one after another: CAMExtractor.stream."
    )


def normalize(x: Tensor, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> Tensor:
    """(..., 3, H, W) uint8, or floats in [0, 1] -> (x - mean) / std, float32; three values each, for x in [0, 1]."""
    return (to_unit(x) - _channels(mean, x)) / _channels(std, x)


def denormalize(x: Tensor, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> Tensor:
    """The inverse of ``normalize``: (..., 3, H, W) normalized floats -> uint8, rounded and cut to [0, 255]."""
    return ((x * _channels(std, x) + _channels(mean, x)) * 255).round().clamp(0, 255).to(torch.uint8)


def to_unit(image: Tensor) -> Tensor:
    """uint8, or floating point in [0, 1] -> float32 in [0, 1].

    Raises:
        ValueError: floats far outside [0, 1] (a normalized image, say), or NaN.
    """
    if image.dtype == torch.uint8:
        return image.float() / 255
    if not image.numel():
        return image.float()
    low, high = image.aminmax()
    if not (low >= _UNIT[0] and high <= _UNIT[1]):  # nor NaN
        raise ValueError(f"floating-point images are in [0, 1], this one goes from {low:.3g} to {high:.3g}.")
    return image.float()


def shrink_factor(height: int, width: int, max_side: int | None) -> float:
    """The factor, at most 1, that brings the longer side to ``max_side`` pixels; 1 for None.

    >>> shrink_factor(300, 1280, 640)
    0.5
    """
    return 1.0 if max_side is None else min(1.0, max_side / max(height, width))


def resize(x: Tensor, size: tuple[int, int], *, antialias: bool = False) -> Tensor:
    """Bilinear resize of (C, H, W) to (C, *size), pixel centres at half integers (align_corners=False)."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if x.shape[0] == 0:
        return x.new_zeros(0, *size)
    return F.interpolate(x[None], size, mode="bilinear", align_corners=False, antialias=antialias)[0]


def _channels(values: Tensor | Sequence[float], like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device=like.device).view(3, 1, 1)


def _from_tensor(x: Tensor) -> Tensor:
    if x.layout != torch.strided or x.is_meta:
        raise TypeError(f"expected a dense tensor with values, got {'no values' if x.is_meta else x.layout}.")
    if x.shape[-3] == 1:
        x = x.expand(*x.shape[:-3], 3, -1, -1)  # grey
    if x.shape[-3] != 3 or 0 in x.shape:
        hint = " Arrays are (H, W, 3), tensors are (3, H, W): use .permute(2, 0, 1)." if x.shape[-1] == 3 else ""
        raise ValueError(f"expected images of shape (3, H, W) or (B, 3, H, W), got {tuple(x.shape)}.{hint}")
    if x.dtype == torch.uint8:
        return x
    if x.dtype not in _FLOATS:
        raise TypeError(f"expected uint8 (raw pixels) or a floating-point tensor (already normalized), got {x.dtype}.")
    x = x.detach()
    low, high = (float(value) for value in x.aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("the image has NaN or infinite values.")
    if max(-low, high) > _HIGHEST_NORMALIZED:
        raise ValueError(
            f"a floating-point image is taken as already normalized, but this one has values up to "
            f"{max(-low, high):.1f}. For raw pixels in [0, 255] pass image.to(torch.uint8)."
        )
    if low >= _UNIT[0] and high <= _UNIT[1]:
        raise ValueError(
            "a floating-point image is taken as already normalized, but all values of this one lie in [0, 1], as "
            "ToTensor gives them. Pass raw pixels, (255 * image).round().to(torch.uint8), or normalize it first: "
            "crt.images.normalize(image, model.mean, model.std)."
        )
    return x.float()


def _from_array(x: np.ndarray) -> Tensor:
    if x.ndim not in (2, 3) or 0 in x.shape or (x.ndim == 3 and x.shape[2] not in (1, 3, 4)):
        raise ValueError(f"expected an array of shape (H, W, 3), got {x.shape}.")
    if x.dtype == np.uint16:
        x = _eight_bits(x, 65535)
    if x.dtype != np.uint8:
        raise TypeError(
            f"expected a uint8 array with pixels in [0, 255], got {x.dtype}. For values in [0, 1] pass "
            f"(255 * image).round().astype('uint8')."
        )
    return _from_pil(Image.fromarray(x.squeeze(2) if x.ndim == 3 and x.shape[2] == 1 else x))


def _from_pil(image: Image.Image, max_side: int | None = None) -> Tensor:
    """See ``open_image``."""
    if 0 in image.size:
        raise ValueError(f"the image is empty: {image.width} x {image.height} pixels.")
    if image.format == "EPS":
        raise ValueError("an EPS is a program, not a photo; convert it first: image.convert('RGB').")
    try:
        image.load()
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        name = printable(getattr(image, "filename", "") or "the image")
        raise OSError(f"{name} cannot be decoded ({error}); the file is broken or truncated.") from error
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(np.asarray(image), 65535))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    alpha = image.has_transparency_data
    if image.mode not in (("RGBA",) if alpha else ("RGB", "L")):
        image = image.convert("RGBA" if alpha else "RGB")
    if (factor := shrink_factor(image.height, image.width, max_side)) < 1:  # before anything else takes memory
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    if alpha:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if turn is not None:
        image = image.transpose(Image.Transpose(turn))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _eight_bits(values: np.ndarray, white: float | None = None) -> np.ndarray:
    """Values of more than 8 bits -> uint8.  If the white value is not known, it is the next of 1, 255 and 65535."""
    if white == 65535 and values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # exact, and half the memory
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("the image has NaN or infinite values.")
    if white is None:
        white = next((limit for limit in (1, 255) if values.max() <= limit), 65535)
    return np.clip(values * (255 / white), 0, 255).round().astype(np.uint8)
