"""CAM extraction: scales and mirrors of photos, cut into tiles, run in batches, put together again.

The tiles of all scales, mirrors and photos form one stream that is computed ``batch_size`` tiles at a time, so memory
depends neither on the number of photos nor on that of scales (paper section 3.4 for the scales and the sum).

Departure: the reference pads the photo and its mirror both on the right and crops to whole patches, which shifts one
map against the other by up to a patch.  With ``align="exact"`` each scaled photo is resized to whole patches instead,
so the patch grid covers the photo and nothing else.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from crt.cam.functional import Align, merge_scales, normalise, resize, snapped_size
from crt.cam.result import CAMResult
from crt.cam.tiling import merge, offsets, pad_to

__all__ = ["CAMExtractor", "CAMModel", "patch_cams"]


class CAMModel(Protocol):
    """What a network must offer to have its CAMs extracted."""

    num_classes: int
    class_names: Sequence[str] | None
    seed_threshold: float
    patch: int
    tile: int
    stride: int

    def tile_maps(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(T, 3, tile, tile) -> class maps (T, K, g, g) and class attention (T, 1, g, g), g = tile / patch."""

    def prepare(self, images: Any) -> list[Tensor]:
        """One image or several, in any accepted form -> normalised float (3, H, W) each."""

    def multi_hot(self, labels: Any, count: int) -> Tensor | None:
        """Labels of ``count`` images in any accepted form -> (count, K) bool, or None for "predict them"."""

    def to_pixels(self, photo: Tensor) -> Tensor:
        """The inverse of ``prepare``: (3, H, W) normalised -> (3, H, W) uint8."""


class _View(NamedTuple):
    """One photo at one scale, mirrored or not, padded for tiling."""

    image: Tensor  # (3, Hp, Wp)
    mirrored: bool
    cells: tuple[int, int]  # patches that show the photo, without the padding

    def places(self, tile: int, stride: int) -> list[tuple[int, int]]:
        height, width = self.image.shape[-2:]
        return list(itertools.product(offsets(height, tile, stride), offsets(width, tile, stride)))


class CAMExtractor:
    """Class activation maps of many photos.

    Args:
        model: a ``CRT``, or any module with the methods of ``CAMModel``.
        scales: factors on the photo's size (the paper: 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0).
        flip: add the CAM of the mirrored photo.
        batch_size: tiles computed at once; the cap on memory.
        max_side: photos with a longer side are seen as if reduced to it (in pixels); None sees them as they are.
            Maps always have the photo's own size.
        normalize: divide each map by (its maximum + 1e-5); otherwise maps are the raw sums.

    Raises:
        ValueError: a scale, batch size or side that is not positive.
    """

    def __init__(
        self,
        model: CAMModel,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = True,
        batch_size: int = 16,
        max_side: int | None = 640,
        normalize: bool = True,
    ) -> None:
        if not scales or any(not 0 < scale < 100 for scale in scales):
            raise ValueError(f"scales must be one or more factors above 0, for example (0.5, 1.0, 1.5); got {scales}.")
        if batch_size < 1 or (max_side is not None and max_side < 1):
            raise ValueError(f"batch_size and max_side must be at least 1; got {batch_size} and {max_side}.")
        self.model, self.scales, self.flip = model, tuple(scales), flip
        self.batch_size, self.max_side, self.normalize = batch_size, max_side, normalize

    def __call__(self, images: Any, labels: Any = None, *, size: tuple[int, int] | None = None) -> list[CAMResult]:
        """CAMs of one image or of a batch or list of images.

        Args:
            images: see ``CRT.cam``.
            labels: see ``CRT.cam``.
            size: (H, W) of all maps; None keeps each photo's own size.

        Returns:
            One result a photo, on the device of its image (of the model, for images that are not tensors).
        """
        photos = self.model.prepare(images)
        wanted = self.model.multi_hot(labels, len(photos))
        pairs = zip(photos, [None] * len(photos) if wanted is None else wanted, strict=True)
        return list(self._results(pairs, size))

    def stream(self, pairs: Iterable[tuple[Any, Any]], *, size: tuple[int, int] | None = None) -> Iterator[CAMResult]:
        """CAMs of any number of (image, labels) pairs, one after another, in constant memory."""

        def prepared() -> Iterator[tuple[Tensor, Tensor | None]]:
            for image, labels in pairs:
                (photo,) = self.model.prepare(image)
                wanted = self.model.multi_hot(labels, 1)
                yield photo, None if wanted is None else wanted[0]

        return self._results(prepared(), size)

    def _results(
        self, pairs: Iterable[tuple[Tensor, Tensor | None]], size: tuple[int, int] | None
    ) -> Iterator[CAMResult]:
        model, grids_a_photo = self.model, len(self.scales) * (2 if self.flip else 1)
        pending: deque[tuple[Tensor, Tensor | None]] = deque()

        def views() -> Iterator[_View]:
            for photo, wanted in pairs:
                pending.append((photo, wanted))
                height, width = photo.shape[-2:]
                shrink = min(1.0, self.max_side / max(height, width)) if self.max_side else 1.0
                for scale in self.scales:
                    target = snapped_size(height, width, scale * shrink, model.patch)
                    yield from _views(resize(photo, target, antialias=True), self.flip, model, "exact")

        grids = _grids(model, views(), self.batch_size)
        for first in grids:
            photo, wanted = pending.popleft()
            maps, scores = zip(first, *itertools.islice(grids, grids_a_photo - 1), strict=True)
            if wanted is None:
                wanted = _predicted(torch.stack(scores).mean(dim=0))
            kept = wanted.nonzero().flatten().tolist()
            cam = merge_scales([m[kept] for m in maps], size or (photo.shape[-2], photo.shape[-1]))
            yield CAMResult(
                maps=(normalise(cam) if self.normalize else cam).to(photo.device),
                labels=kept,
                class_names=model.class_names,
                seed_threshold=model.seed_threshold,
                pixels=model.to_pixels(photo),
            )


def patch_cams(model: CAMModel, image: Tensor, *, mirror: bool, align: Align, batch_size: int = 16) -> Tensor:
    """The unnormalised CAM of one image at its own size, on the patch grid: (3, H, W) -> (K, h, w)."""
    if align == "exact":
        image = resize(image, snapped_size(image.shape[-2], image.shape[-1], 1.0, model.patch))
    grids = _grids(model, _views(image, mirror, model, align), batch_size)
    return torch.stack([cam for cam, _ in grids]).sum(dim=0)


def _views(image: Tensor, mirror: bool, model: CAMModel, align: Align) -> Iterator[_View]:
    """The image and its mirror image, padded: to one tile at least, or as the reference does."""
    height, width = image.shape[-2:]
    cells = (-(-height // model.patch), -(-width // model.patch))
    if align == "reference":
        padded = [max((side // model.stride + 1) * model.stride, model.tile) for side in (height, width)]
    else:
        padded = [max(side, model.tile) for side in (height, width)]
    for mirrored in (False, True) if mirror else (False,):
        yield _View(pad_to(image.flip(-1) if mirrored else image, padded[0], padded[1]), mirrored, cells)


def _grids(model: CAMModel, views: Iterable[_View], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each view: its CAM (K, h, w) on the patch grid, mirrored back, and the mean of its class maps (K,)."""
    waiting: deque[_View] = deque()
    tile, stride = model.tile, model.stride

    def tiles() -> Iterator[Tensor]:
        for view in views:
            waiting.append(view)
            for top, left in view.places(tile, stride):
                yield view.image[:, top : top + tile, left : left + tile]

    outputs = _tile_outputs(model, tiles(), batch_size)
    for first in outputs:
        view = waiting.popleft()
        rest = itertools.islice(outputs, len(view.places(tile, stride)) - 1)
        maps, attention = (torch.stack(part).float() for part in zip(first, *rest, strict=True))
        grid = (view.image.shape[-2] // model.patch, view.image.shape[-1] // model.patch)
        both = merge(torch.cat([maps * attention, maps], dim=1), grid, tile // model.patch, stride // model.patch)
        cam, raw = both[0, :, : view.cells[0], : view.cells[1]].split(maps.shape[1])
        yield (cam.flip(-1) if view.mirrored else cam).relu(), raw.mean(dim=(-2, -1))


def _tile_outputs(model: CAMModel, tiles: Iterator[Tensor], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One (K, g, g) class map and one (1, g, g) attention map a tile, computed ``batch_size`` tiles at a time."""
    while batch := list(itertools.islice(tiles, batch_size)):
        yield from zip(*model.tile_maps(torch.stack(batch)), strict=True)


def _predicted(logits: Tensor) -> Tensor:
    """(K,) logits -> (K,) bool: the classes of probability over one half, or the likeliest if there is none."""
    above = logits > 0
    return above if above.any() else torch.arange(len(logits), device=logits.device) == logits.argmax()
