"""Overlapping tiles: cut an image, merge what was computed on its tiles.

Paper section 3.2, "overlapping cutting and merging".  Departure: the last tile of a row or column lies flush with the
border instead of hanging over it, so that no padding is needed for images of at least one tile; where the length is a
whole number of strides, as in the paper's training crops, the tiles are the paper's.

``cut`` and ``merge`` are inverses for every size: ``merge(cut(x, t, s), x.shape[-2:], t, s) == x``.
"""

from typing import TypeAlias

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

__all__ = ["cut", "merge", "offsets", "pad_to"]

Pair: TypeAlias = int | tuple[int, int]


def offsets(length: int, tile: int, stride: int) -> list[int]:
    """First positions of the tiles along one axis.

    Args:
        length: the axis, in pixels or cells; a shorter axis than ``tile`` has one tile (and is padded by ``cut``).
        tile: length of a tile, in the same unit.
        stride: distance between tiles, 1 to ``tile``; the last tile may lie closer to the one before.

    Raises:
        ValueError: a length below one, or a stride that leaves gaps.
    """
    if length < 1 or tile < 1:
        raise ValueError(f"length and tile must be at least 1, got length {length} and tile {tile}.")
    if not 1 <= stride <= tile:
        raise ValueError(f"stride must be 1 to {tile} (the tile), so that tiles leave no gap; got {stride}.")
    last = max(length - tile, 0)
    return [*range(0, last, stride), last]


def pad_to(x: Tensor, height: int, width: int) -> Tensor:
    """Pads (..., H, W) with zeros at the bottom and on the right to at least (height, width)."""
    bottom, right = max(height - x.shape[-2], 0), max(width - x.shape[-1], 0)
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


def cut(x: Tensor, tile: Pair, stride: Pair) -> Tensor:
    """Cuts images into overlapping tiles, row by row.

    Args:
        x: (B, C, H, W), any dtype; an axis shorter than ``tile`` is padded with zeros at its end.
        tile: side of a tile in pixels, or (h, w).
        stride: distance between tiles in pixels, or (dy, dx).

    Returns:
        (B * T, C, h, w); the T tiles of an image follow each other.
    """
    if x.ndim != 4:
        raise ValueError(f"expected images of shape (B, C, H, W), got {tuple(x.shape)}.")
    (height, width), (dy, dx) = _pair(tile), _pair(stride)
    rows, columns = offsets(x.shape[-2], height, dy), offsets(x.shape[-1], width, dx)
    x = pad_to(x, height, width)
    tiles = [x[..., top : top + height, left : left + width] for top in rows for left in columns]
    return torch.stack(tiles, dim=1).flatten(0, 1)


def merge(tiles: Tensor, size: tuple[int, int], tile: Pair, stride: Pair) -> Tensor:
    """Puts tiles back at their places and averages where they overlap.

    Args:
        tiles: (B * T, C, h, w), floating point, in the order of ``cut``.
        size: (H, W) of the whole, in the unit of the tiles (patches, if these are maps of patches).
        tile: side of a tile, or (h, w).
        stride: distance between tiles, or (dy, dx).

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: the tiles are of another size, or not a multiple of the number that ``size`` needs.
    """
    (height, width), (dy, dx) = _pair(tile), _pair(stride)
    rows, columns = offsets(size[0], height, dy), offsets(size[1], width, dx)
    count = len(rows) * len(columns)
    if tiles.ndim != 4 or tiles.shape[-2:] != (height, width) or tiles.shape[0] % count:
        raise ValueError(
            f"expected (B * {count}, C, {height}, {width}), the {len(rows)} x {len(columns)} tiles of a {size[0]} x "
            f"{size[1]} map, got {tuple(tiles.shape)}."
        )
    strips = rearrange(tiles, "(b r c) k h w -> b r k h (c w)", r=len(rows), c=len(columns))
    strips = _merge_last(strips, size[1], width, dx)
    whole = rearrange(strips, "b r k h w -> b k w (r h)")
    return rearrange(_merge_last(whole, size[0], height, dy), "b k w h -> b k h w")


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _merge_last(x: Tensor, length: int, tile: int, stride: int) -> Tensor:
    """Averages tiles that lie one after another on the last axis (..., n * tile) into (..., length).

    The mean is taken as the first tile's value + the mean of the differences from it, which are exactly zero where the
    tiles agree: so merging what was cut is exact to the bit however many tiles overlap.  All indices are computed on
    the tensor's own device.
    """
    padded = max(length, tile)
    cells = torch.arange(padded, device=x.device)
    starts = (torch.arange(x.shape[-1] // tile, device=x.device) * stride).clamp(max=padded - tile)  # ``offsets``
    places = (starts[:, None] + cells[:tile]).flatten()
    first = ((cells - tile + stride) // stride).clamp(min=0)  # the first tile that covers each cell
    base = x.index_select(-1, first * tile + cells - starts[first])
    differences = torch.zeros_like(base).index_add(-1, places, x - base.index_select(-1, places))
    cover = x.new_zeros(padded).index_add(0, places, x.new_ones(len(places)))
    return (base + differences / cover)[..., :length]
