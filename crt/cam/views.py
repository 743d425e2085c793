"""How a photo is seen: at which sizes, mirrored or not, and which tiles each of these views becomes.

Departure: the reference pads the photo and its mirror image both on the right and crops to whole patches, which shifts
one map against the other by up to a patch.  With ``align="exact"`` each scaled photo is resized to whole patches
instead, so the patch grid covers the photo and nothing else.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from crt.cam.functional import Align, snapped_size
from crt.cam.tiling import merge, offsets, pad_to
from crt.images import shrink_factor

__all__ = ["Tiling", "View", "plan_views", "view_of"]


class Tiling(NamedTuple):
    """Sides in pixels: of a patch, of a square tile, and the distance between tiles; both are multiples of a patch."""

    patch: int
    tile: int
    stride: int


class View(NamedTuple):
    """A photo seen once.

    Attributes:
        size: (H, W) in pixels, to which the photo is resized.
        padded: (H, W) in pixels, with zeros at the bottom and on the right: at least one tile.
        tiling: how it is cut.
        mirrored: left and right changed.
    """

    size: tuple[int, int]
    padded: tuple[int, int]
    tiling: Tiling
    mirrored: bool

    @property
    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of each tile in pixels, row by row."""
        rows, columns = (offsets(side, self.tiling.tile, self.tiling.stride) for side in self.padded)
        return list(itertools.product(rows, columns))

    def cut(self, image: Tensor) -> Iterator[Tensor]:
        """The photo at ``size``, (3, H, W) -> its tiles, (3, tile, tile) each."""
        seen, side = pad_to(image.flip(-1) if self.mirrored else image, *self.padded), self.tiling.tile
        return (seen[:, top : top + side, left : left + side] for top, left in self.corners)

    def merge(self, tiles: Tensor) -> Tensor:
        """Maps of the tiles (T, C, g, g) -> (C, h, w), averaged where tiles overlap, cropped to the photo's patches."""
        patch, tile, stride = self.tiling
        whole = merge(tiles, (self.padded[0] // patch, self.padded[1] // patch), tile // patch, stride // patch)[0]
        return whole[:, : -(-self.size[0] // patch), : -(-self.size[1] // patch)]


def plan_views(
    height: int, width: int, tiling: Tiling, *, scales: Sequence[float], flip: bool, max_side: int | None
) -> list[View]:
    """The views of a photo: each scale, with its mirror image behind it if ``flip``.

    Args:
        height, width: of the photo, in pixels.
        scales: factors on the photo's size, reduced to ``max_side`` first.
    """
    shrink = shrink_factor(height, width, max_side)
    sizes = [snapped_size(height, width, scale * shrink, tiling.patch) for scale in scales]
    return [view_of(size, tiling, mirrored) for size in sizes for mirrored in ((False, True) if flip else (False,))]


def view_of(size: tuple[int, int], tiling: Tiling, mirrored: bool, align: Align = "exact") -> View:
    """One view, padded to one tile at least, or as the reference does."""
    if align == "reference":
        height, width = (max((side // tiling.stride + 1) * tiling.stride, tiling.tile) for side in size)
    else:
        height, width = (max(side, tiling.tile) for side in size)
    return View(size, (height, width), tiling, mirrored)
