"""CAM extraction: scales and mirrors of photos, cut into tiles, run in batches, put together again.

The tiles of all scales, mirrors and photos form one stream that is computed ``batch_size`` tiles at a time (paper
section 3.4 for the scales and the sum).  Read ``_finished_views`` for the stream, ``_View.cam`` for what becomes of it.

Departure: the reference pads the photo and its mirror both on the right and crops to whole patches, which shifts one
map against the other by up to a patch.  With ``align="exact"`` each scaled photo is resized to whole patches instead,
so the patch grid covers the photo and nothing else.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor

from crt._messages import placed
from crt.cam.functional import (
    Activation,
    Align,
    activated,
    chosen,
    merge_scales,
    normalise,
    pooled,
    reduction,
    resize,
    snapped_size,
)
from crt.cam.result import CAMResult
from crt.cam.tiling import merge, offsets, pad_to

__all__ = ["CAMExtractor", "CAMModel", "patch_cams"]

_Pair = tuple[Tensor, Tensor | None]  # a photo, and which of the K classes are in it


class CAMModel(Protocol):
    """What a network must offer to have its CAMs extracted."""

    num_classes: int
    class_names: Sequence[str] | None
    seed_threshold: float
    pool: float
    activation: Activation
    patch: int
    tile: int
    stride: int

    @property
    def device(self) -> torch.device: ...

    def tile_maps(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(T, 3, tile, tile) -> class maps (T, K, g, g) and their weights (T, 1, g, g), g = tile / patch."""

    def photos(self, images: Any) -> list[Tensor]:
        """One image or several, in any accepted form -> (3, H, W) each, uint8 or already normalised floats."""

    def multi_hot(self, labels: Any, count: int) -> Tensor | None:
        """Labels of ``count`` images in any accepted form -> (count, K) bool, or None for "predict them"."""

    def normalised(self, photo: Tensor) -> Tensor:
        """(3, H, W) uint8 -> normalised floats; these are returned as they are."""

    def pixels(self, photo: Tensor) -> Tensor:
        """The inverse: (3, H, W) normalised -> uint8; this is returned as it is."""


class CAMExtractor:
    """Class activation maps of many photos.

    Args:
        model: a ``CRT``, or any module with the methods of ``CAMModel``.
        scales: factors on the photo's size (the paper: 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0).
        flip: add the CAM of the mirrored photo.
        batch_size: tiles computed at once, over scales and photos.
        max_side: photos with a longer side are seen as if reduced to it (in pixels); None sees them as they are.
            Maps always have the photo's own size.
        stride: distance between tiles in pixels, a multiple of the patch.  With the tile's side, or more, tiles overlap
            only at the border; None takes the model's.
        normalize: divide each map by (its maximum + 1e-5); otherwise maps are the raw sums.

    ``crt.cam.PRESETS`` has settings by name: ``CAMExtractor(model, **PRESETS["fast"])``.

    Raises:
        ValueError: a scale, batch size, side or stride out of its range.
    """

    def __init__(
        self,
        model: CAMModel,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = True,
        batch_size: int = 16,
        max_side: int | None = 640,
        stride: int | None = None,
        normalize: bool = True,
    ) -> None:
        if not isinstance(scales, Sequence) or not scales or any(not 0 < scale <= 16 for scale in scales):
            raise ValueError(f"scales must be a list of factors above 0 and up to 16, like (0.5, 1.0); got {scales}.")
        if batch_size < 1 or (max_side is not None and max_side < 1):
            raise ValueError(f"batch_size and max_side must be at least 1; got {batch_size} and {max_side}.")
        if stride is not None and (stride < 1 or stride % model.patch):
            raise ValueError(f"stride must be a multiple of the model's patch, {model.patch}; got {stride}.")
        self.model, self.scales, self.flip = model, tuple(scales), flip
        self.stride = model.stride if stride is None else min(stride, model.tile)
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
        photos = self.model.photos(images)
        wanted = self.model.multi_hot(labels, len(photos))
        return list(self._results(zip(photos, wanted if wanted is not None else itertools.repeat(None)), size))  # noqa: B905

    def stream(self, pairs: Iterable[tuple[Any, Any]], *, size: tuple[int, int] | None = None) -> Iterator[CAMResult]:
        """CAMs of any number of (image, labels) pairs, one after another; only those in flight are held.

        The pairs are asked for, and pictures decoded, in a thread, up to two ahead of the computing.

        Raises:
            TypeError, ValueError, OSError: a pair that cannot be understood, after the results of all before it; the
                message has its number, from 0.
        """

        def understood() -> Iterator[_Pair]:
            for number, (image, labels) in enumerate(pairs):
                try:
                    (photo,) = self.model.photos([image])
                    wanted = self.model.multi_hot(labels, 1)
                except (TypeError, ValueError, OSError) as error:
                    raise placed(error, f"photo {number} of the stream") from error
                yield photo, None if wanted is None else wanted[0]

        return self._results(_ahead(understood()), size)

    def _results(self, pairs: Iterable[_Pair], size: tuple[int, int] | None) -> Iterator[CAMResult]:
        """Each photo's result as soon as its last tile is computed."""
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size must be (H, W) in pixels, got {size}.")
        failed: list[Exception] = []

        def views() -> Iterator[tuple[_View, Tensor]]:
            try:
                for photo, wanted in pairs:
                    yield from self._views_of(photo, wanted)
            except (TypeError, ValueError, OSError) as error:  # raised below, when the photos before it are done
                failed.append(error)

        views_a_photo = len(self.scales) * (2 if self.flip else 1)
        for done in _groups(_finished_views(self.model, views(), self.batch_size), views_a_photo):
            yield self._result(done, size)
        if failed:
            raise failed[0]

    def _views_of(self, photo: Tensor, wanted: Tensor | None) -> Iterator[tuple["_View", Tensor]]:
        """The photo at every scale, each with its mirror image."""
        image = self.model.normalised(photo.to(self.model.device))
        kept = None if wanted is None else wanted.nonzero().flatten().to(self.model.device)
        shrink = reduction(photo.shape[-2], photo.shape[-1], self.max_side)
        for scale in self.scales:
            scaled = snapped_size(photo.shape[-2], photo.shape[-1], scale * shrink, self.model.patch)
            for view, seen in _views(self.model, resize(image, scaled, antialias=True), self.flip, self.stride):
                view.photo, view.wanted, view.kept = photo, wanted, kept
                yield view, seen

    def _result(self, views: list["_View"], size: tuple[int, int] | None) -> CAMResult:
        """Merges the finished views of one photo."""
        photo, wanted = views[0].photo, views[0].wanted
        if wanted is None:
            wanted = _predicted(torch.stack([view.scores(self.model.pool) for view in views]).mean(dim=0))
            kept = wanted.nonzero().flatten()
            for view in views:
                view.choose(kept)
        pair = 2 if self.flip else 1
        maps = [torch.stack([view.cam() for view in scale]).sum(dim=0) for scale in _groups(views, pair)]
        cam = merge_scales(maps, size or (photo.shape[-2], photo.shape[-1]))
        return CAMResult(
            maps=(normalise(cam) if self.normalize else cam).to(photo.device),
            labels=wanted.nonzero().flatten().tolist(),
            class_names=self.model.class_names,
            seed_threshold=self.model.seed_threshold,
            pixels=self.model.pixels(photo),
            normalized=self.normalize,
        )


def patch_cams(model: CAMModel, image: Tensor, *, mirror: bool, align: Align, batch_size: int = 16) -> Tensor:
    """The unnormalised CAM of one normalised image at its own size, on the patch grid: (3, H, W) -> (K, h, w)."""
    image = image.to(model.device)
    if align == "exact":
        image = resize(image, snapped_size(image.shape[-2], image.shape[-1], 1.0, model.patch))
    views = list(_finished_views(model, _views(model, image, mirror, model.stride, align), batch_size))
    for view in views:
        view.choose(torch.arange(model.num_classes, device=model.device))
    return torch.stack([view.cam() for view in views]).sum(dim=0)


class _View:
    """One photo at one scale, mirrored or not: where its tiles lie, and what came of them so far."""

    photo: Tensor
    wanted: Tensor | None = None  # (K,) bool, the photo's classes; None if they are to be predicted
    kept: Tensor | None = None  # their indices, on the model's device; None keeps all classes

    def __init__(
        self, model: CAMModel, padded: tuple[int, int], cells: tuple[int, int], mirrored: bool, stride: int
    ) -> None:
        rows, columns = (offsets(side, model.tile, stride) for side in padded)
        self.places = list(itertools.product(rows, columns))
        self.missing = len(self.places)  # tiles that are not computed yet
        self.tiling = (model.tile // model.patch, stride // model.patch)
        self.grid = (padded[0] // model.patch, padded[1] // model.patch)
        self.activation = model.activation
        self.cells, self.mirrored = cells, mirrored  # cells: patches that show the photo, without the padding
        self.maps: list[Tensor] = []
        self.attentions: list[Tensor] = []

    def add(self, class_maps: Tensor, attentions: Tensor) -> None:
        """(t, K, g, g) and (t, 1, g, g): of the next t tiles."""
        self.maps.append(class_maps if self.kept is None else chosen(class_maps, self.kept, self.activation))
        self.attentions.append(attentions)
        self.missing -= len(class_maps)

    def choose(self, kept: Tensor) -> None:
        """Keeps the maps of these classes, for a view that was made without knowing them."""
        self.maps = [chosen(class_maps, kept, self.activation) for class_maps in self.maps]

    def cam(self) -> Tensor:
        """(k, h, w): attention times class map, merged, cropped, cut at zero (or as probability), mirrored back."""
        maps = self._merged(torch.cat(self.maps).float() * torch.cat(self.attentions).float())
        cam = activated(maps, self.activation)
        return cam.flip(-1) if self.mirrored else cam

    def scores(self, share: float) -> Tensor:
        """(K,) logits: the merged class maps, pooled."""
        return pooled(self._merged(torch.cat(self.maps).float()), share)

    def _merged(self, maps: Tensor) -> Tensor:
        return merge(maps, self.grid, *self.tiling)[0, :, : self.cells[0], : self.cells[1]]


def _views(
    model: CAMModel, image: Tensor, mirror: bool, stride: int, align: Align = "exact"
) -> Iterator[tuple[_View, Tensor]]:
    """The image and its mirror image, padded: to one tile at least, or as the reference does."""
    height, width = image.shape[-2:]
    cells = (-(-height // model.patch), -(-width // model.patch))
    if align == "reference":
        padded = tuple(max((side // stride + 1) * stride, model.tile) for side in (height, width))
    else:
        padded = (max(height, model.tile), max(width, model.tile))
    for mirrored in (False, True) if mirror else (False,):
        seen = pad_to(image.flip(-1) if mirrored else image, padded[0], padded[1])
        yield _View(model, (padded[0], padded[1]), cells, mirrored, stride), seen


def _finished_views(model: CAMModel, views: Iterable[tuple[_View, Tensor]], batch_size: int) -> Iterator[_View]:
    """Runs the tiles of all views through the model, ``batch_size`` at a time; yields each view when it has all."""
    side = model.tile
    tiles = ((view, seen[:, y : y + side, x : x + side]) for view, seen in views for y, x in view.places)
    for batch in _groups(tiles, batch_size):
        maps, attentions = model.tile_maps(torch.stack([tile for _, tile in batch]))
        first = 0
        for view, run in itertools.groupby(view for view, _ in batch):
            last = first + len(list(run))
            view.add(maps[first:last], attentions[first:last])
            first = last
            if not view.missing:
                yield view


def _groups(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size`` items, the last one maybe shorter."""
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _ahead(items: Iterable[Any], count: int = 2) -> Iterator[Any]:
    """The items in order; ``count`` of them are asked for in a thread while those before are worked on."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as reader:
        asked = deque(reader.submit(next, iterator, end) for _ in range(count))
        while (item := asked.popleft().result()) is not end:
            asked.append(reader.submit(next, iterator, end))
            yield item


def _predicted(logits: Tensor) -> Tensor:
    """(K,) logits -> (K,) bool: the classes of probability over one half, or the likeliest if there is none."""
    over = logits > 0
    return over if over.any() else over.scatter(0, logits.argmax(dim=0, keepdim=True), True)
