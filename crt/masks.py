"""Masks as PNGs with VOC's palette: the values are the classes, the colours are for the eye."""

import os

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crt._files import require_regular
from crt._messages import printable
from crt.images import FORMATS, check_pixels

__all__ = ["load_mask", "palette", "resize_mask", "save_mask"]


def palette() -> np.ndarray:
    """VOC's colours: (256, 3) uint8.  The bits of an index are dealt to red, green and blue, high bits first."""
    index = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A (h, w) mask at another size: each pixel takes the nearest one's value; memory for two masks.

    >>> resize_mask(torch.tensor([[1, 2]]), (2, 4))
    tensor([[1, 1, 2, 2],
            [1, 1, 2, 2]])
    """
    for axis, (old, new) in enumerate(zip(mask.shape, size, strict=True)):
        if old != new:
            nearest = (torch.arange(new, device=mask.device) * 2 + 1) * old // (2 * new)
            mask = mask.index_select(axis, nearest)
    return mask


def save_mask(mask: Tensor | np.ndarray, path: str | os.PathLike[str], *, wide: bool = False) -> None:
    """Writes a (H, W) mask of integers 0 to 255 as a palette PNG.

    Args:
        wide: write a 16-bit grey PNG instead, for values up to 65535.

    Raises:
        ValueError: another shape, or values that do not fit one byte.
        OSError: it cannot be written.
    """
    values = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise ValueError(f"a mask is a (H, W) array of integers, got {values.dtype} {values.shape}.")
    highest = 65535 if wide else 255
    if values.size and (values.min() < 0 or values.max() > highest):
        raise ValueError(f"this PNG holds values 0 to {highest}, got {values.min()} to {values.max()}.")
    if wide:
        Image.fromarray(values.astype(np.uint16)).save(path, format="PNG")
        return
    image = Image.fromarray(values.astype(np.uint8)).convert("P")
    image.putpalette(palette().tobytes())
    image.save(path, format="PNG")


def load_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a palette or grey PNG as (H, W) uint8 (uint16, if it has 16 bits), the values as stored.

    Raises:
        FileNotFoundError: there is no file.
        OSError: it cannot be read.
        ValueError: the file is not a PNG, or its values are not classes: a colour picture, grey of fewer than 8 bits.
    """
    name = printable(path)
    try:
        file = require_regular(path)
        with Image.open(file, formats=FORMATS) as image:
            check_pixels(image, file)
            kind, mode = image.format, image.mode
            stored = str(image.tile[0][3]) if image.tile else mode  # grey of fewer than 8 bits is "L;4", say
            values = np.array(image) if kind == "PNG" else np.empty(0)
    except FileNotFoundError:
        raise
    except Image.UnidentifiedImageError:
        raise OSError(f"{name} cannot be read as a mask: it is not a PNG.") from None
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise OSError(f"{name} cannot be read as a mask: {printable(error, 300)}") from error
    if kind != "PNG":
        raise ValueError(f"{name}: a mask is a PNG, this one is a {kind}.")
    if mode not in ("P", "L", "I;16") or (mode == "L" and ";" in stored):
        raise ValueError(f"{name}: a mask is a palette image, or grey with 8 or 16 bits; this one is {stored}.")
    return values
