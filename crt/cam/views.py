"""How a photo is seen: at which sizes, mirrored or not, and which tiles each of these views becomes.

Departure: the reference pads the photo and its mirror image both on the right and crops to whole patches, which shifts
one map against the other by up to a patch.  With ``align="exact"`` each scaled photo is resized to whole patches
instead, so the patch grid covers the photo and nothing else.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Literal, NamedTuple

from torch import Tensor

from crt._messages import printable
from crt.cam.functional import Align, snapped_size
from crt.cam.protocol import CAMModel
from crt.cam.tiling import merge, offsets, pad_to
from crt.images import shrink_factor

__all__ = ["MAX_TOKENS", "Tiling", "View", "check_scales", "choose_tiling", "plan_views", "view_of", "whole_tile"]

MAX_TOKENS = 4096
"""Patches of a photo that is seen whole, at most (1024 x 1024 pixels, with patches of 16); larger ones become tiles."""


class Tiling(NamedTuple):
    """How views are cut.

    Attributes:
        patch: side of a patch in pixels.
        tile: side of a square tile in pixels, a multiple of the patch; "whole" for one tile of the view's own size.
        stride: distance between tiles in pixels, a multiple of the patch; "whole" has none.
    """

    patch: int
    tile: int | Literal["whole"]
    stride: int


def check_scales(scales: Sequence[float]) -> None:
    """ValueError unless these are factors of a photo's size."""
    numbers = isinstance(scales, Sequence) and not isinstance(scales, str) and len(scales) > 0
    if not numbers or not all(isinstance(scale, Real) and 0 < scale <= 16 for scale in scales):
        given = printable(repr(scales), 60)
        raise ValueError(f"scales must be a list of factors above 0 and up to 16, like (0.5, 1.0); got {given}.")


def choose_tiling(model: CAMModel, tile: int | Literal["whole", "own"] | None, stride: int | None) -> Tiling:
    """Tile and stride as asked for, or else the model's; half a tile is the stride of another tile.

    Args:
        tile: side in pixels; "own" for the model's; "whole" for the photo at once; None as the model prefers.
        stride: in pixels; None takes the model's.

    Raises:
        ValueError: one of them is not a multiple of the patch, or the whole photo is to have a stride.
    """
    if tile is None and model.whole and stride is None:
        tile = "whole"
    if tile == "own":
        tile = None
    if tile == "whole":
        if stride is not None:
            raise ValueError("stride is the distance between tiles, and the whole photo is one: leave stride out.")
        return Tiling(model.patch, tile, model.stride)
    for name, value in (("tile", tile), ("stride", stride)):
        if value is not None and (not isinstance(value, int) or value < 1 or value % model.patch):
            raise ValueError(f"{name} must be a multiple of the model's patch, {model.patch}; got {value!r}.")
    if tile is None or tile == model.tile:
        return Tiling(model.patch, model.tile, model.stride if stride is None else min(stride, model.tile))
    half = max(tile // model.patch // 2, 1) * model.patch
    return Tiling(model.patch, tile, half if stride is None else min(stride, tile))


class View(NamedTuple):
    """A photo seen once; all sizes in pixels.

    Attributes:
        size: (H, W), to which the photo is resized.
        padded: (H, W), with zeros at the bottom and on the right: at least one tile.
        patch: side of a patch.
        tile: (h, w) of a tile.
        stride: (dy, dx) between tiles.
        mirrored: left and right changed.
    """

    size: tuple[int, int]
    padded: tuple[int, int]
    patch: int
    tile: tuple[int, int]
    stride: tuple[int, int]
    mirrored: bool

    @property
    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of each tile, row by row."""
        rows, columns = (offsets(*axis) for axis in zip(self.padded, self.tile, self.stride, strict=True))
        return list(itertools.product(rows, columns))

    @property
    def in_patches(self) -> tuple[tuple[int, int], ...]:
        """``padded``, ``tile`` and ``stride``, in patches."""
        sides = (self.padded, self.tile, self.stride)
        return tuple((height // self.patch, width // self.patch) for height, width in sides)

    def cut(self, image: Tensor) -> Iterator[Tensor]:
        """The photo at ``size``, (3, H, W) -> its tiles, (3, h, w) each."""
        seen, (height, width) = pad_to(image.flip(-1) if self.mirrored else image, *self.padded), self.tile
        return (seen[:, top : top + height, left : left + width] for top, left in self.corners)

    def merge(self, tiles: Tensor) -> Tensor:
        """Maps of the tiles' patches (T, C, h, w) -> (C, H, W), averaged where tiles overlap, cropped to the photo."""
        return self.merge_batch(tiles)[0]

    def merge_batch(self, tiles: Tensor) -> Tensor:
        """``merge`` of the tiles of B photos that are seen alike: (B * T, C, h, w) -> (B, C, H, W)."""
        grid, tile, stride = self.in_patches
        rows, columns = (-(-side // self.patch) for side in self.size)
        return merge(tiles, grid, tile, stride)[..., :rows, :columns]


def plan_views(
    height: int, width: int, tiling: Tiling, *, scales: Sequence[float], flip: bool, max_side: int | None
) -> list[View]:
    """The views of a photo: each scale, with its mirror image behind it if ``flip``.

    Args:
        height, width: of the photo, in pixels.
        tiling: how views are cut.
        scales: factors on the photo's size, reduced to ``max_side`` first.
    """
    shrink = shrink_factor(height, width, max_side)
    sizes = [snapped_size(height, width, scale * shrink, tiling.patch) for scale in scales]
    return [view_of(size, tiling, mirrored) for size in sizes for mirrored in ((False, True) if flip else (False,))]


def view_of(size: tuple[int, int], tiling: Tiling, mirrored: bool, align: Align = "exact") -> View:
    """One view, padded to one tile at least, or as the reference does; seen whole, it is not padded."""
    patch, side, step = tiling
    if side == "whole":
        rows, columns = whole_tile(size[0] // patch, size[1] // patch)
        stride = (-(-rows // 2) * patch, -(-columns // 2) * patch)
        return View(size, size, patch, (rows * patch, columns * patch), stride, mirrored)
    if align == "reference":
        height, width = (max((length // step + 1) * step, side) for length in size)
    else:
        height, width = (max(length, side) for length in size)
    return View(size, (height, width), patch, (side, side), (step, step), mirrored)


def whole_tile(rows: int, columns: int, limit: int = MAX_TOKENS) -> tuple[int, int]:
    """The tile, in patches, for a grid that is to be seen whole: the grid itself, or the largest tile within the limit.

    >>> whole_tile(24, 32), whole_tile(250, 188), whole_tile(10, 1000)
    ((24, 32), (64, 64), (10, 409))
    """
    if rows * columns <= limit:
        return rows, columns
    width = min(columns, max(math.isqrt(limit), limit // rows))
    return min(rows, limit // width), width
