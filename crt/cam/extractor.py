"""From photos to class activation maps: read ``CAMExtractor`` from ``__call__`` or ``stream`` down.

A photo is seen at several scales, with its mirror image (``crt.cam.views``); each view is cut into tiles.  The tiles of
all views and photos form one stream that the model computes ``batch_size`` tiles at a time (paper section 3.4 for the
scales and the sum).  The model is asked for one thing only: ``tile_maps``.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import torch
from torch import Tensor

from crt._messages import placed
from crt.cam.functional import (
    Activation,
    Align,
    activate,
    check_finite,
    merge_scales,
    normalize_cam,
    pool_maps,
    select_classes,
    snapped_size,
)
from crt.cam.protocol import CAMModel
from crt.cam.result import CAMResult
from crt.cam.views import Tiling, View, choose_tiling, plan_views, view_of
from crt.images import ImageLike, ImagesLike, denormalize, normalize, resize, to_tensor, to_tensors
from crt.labels import LabelsLike, to_multi_hot

__all__ = ["CAMExtractor", "patch_cams"]

T = TypeVar("T")
_Pair = tuple[Tensor, Tensor | None]  # a photo, and which of the K classes are in it (None: to be predicted)


class CAMExtractor:
    """Class activation maps of many photos.

    Args:
        model: a ``CRT``, or any module with the members of ``CAMModel``.
        scales: factors on the photo's size (the paper: 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0).
        flip: add the CAM of the mirrored photo.
        batch_size: tiles computed at once, over scales and photos; of larger tiles as many as have as many pixels.
        max_side: photos with a longer side are seen as if reduced to it (in pixels); None sees them as they are.
            Maps always have the photo's own size.
        stride: distance between tiles in pixels, a multiple of the patch.  With the tile's side, or more, tiles overlap
            only at the border; None takes the model's (half of another ``tile``).
        tile: side of a square tile in pixels, a multiple of the patch; None takes the model's.  "whole" sees each view
            at once, as one tile of its own size; views of more than ``crt.cam.views.MAX_TOKENS`` patches become large
            tiles that overlap by half.
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
        tile: int | Literal["whole"] | None = None,
        normalize: bool = True,
    ) -> None:
        if not isinstance(scales, Sequence) or not scales or any(not 0 < scale <= 16 for scale in scales):
            raise ValueError(f"scales must be a list of factors above 0 and up to 16, like (0.5, 1.0); got {scales}.")
        if batch_size < 1 or (max_side is not None and max_side < 1):
            raise ValueError(f"batch_size and max_side must be at least 1; got {batch_size} and {max_side}.")
        self.model, self.scales, self.flip = model, tuple(scales), flip
        self.tiling = choose_tiling(model, tile, stride)
        self.tile, self.stride = self.tiling.tile, self.tiling.stride
        self.batch_size, self.max_side, self.normalize = batch_size, max_side, normalize

    def __call__(
        self, images: ImagesLike, labels: LabelsLike | None = None, *, size: tuple[int, int] | None = None
    ) -> list[CAMResult]:
        """CAMs of one image or of a batch or list of images.

        Args:
            images: see ``CRT.cam``.
            labels: see ``CRT.cam``.
            size: (H, W) of all maps; None keeps each photo's own size.

        Returns:
            One result a photo, on the device of its image (of the model, for images that are not tensors).
        """
        photos = to_tensors(images, device=self.model.device)
        targets = to_multi_hot(labels, len(photos), self.model.num_classes, self.model.class_names)
        wanted = itertools.repeat(None, len(photos)) if targets is None else targets
        return list(self._results(zip(photos, wanted, strict=True), size))

    def stream(
        self, pairs: Iterable[tuple[ImageLike, LabelsLike | None]], *, size: tuple[int, int] | None = None
    ) -> Iterator[CAMResult]:
        """CAMs of any number of (image, labels) pairs, one after another; only those in flight are held.

        The pairs are asked for, and pictures decoded, in a thread, up to two ahead of the computing.

        Raises:
            TypeError, ValueError, OSError: a pair that cannot be understood, after the results of all before it; the
                message has its number, from 0.
        """

        def understood() -> Iterator[_Pair]:
            for number, (image, labels) in enumerate(pairs):
                try:
                    photo = to_tensor(image, device=self.model.device)
                    targets = to_multi_hot(labels, 1, self.model.num_classes, self.model.class_names)
                except (TypeError, ValueError, OSError) as error:
                    raise placed(error, f"photo {number} of the stream") from error
                yield photo, None if targets is None else targets[0]

        return self._results(_ahead(understood()), size)

    def _results(self, pairs: Iterable[_Pair], size: tuple[int, int] | None) -> Iterator[CAMResult]:
        """Each photo's result as soon as its last tile is computed."""
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size must be (H, W) in pixels, got {size}.")
        failed: list[Exception] = []

        def seen() -> Iterator[_Seen]:
            try:
                for photo, targets in pairs:
                    yield self._seen(photo, targets)
            except (TypeError, ValueError, OSError) as error:  # raised below, when the photos before it are done
                failed.append(error)

        for done in _computed(self.model, seen(), self.batch_size):
            yield self._result(done, size)
        if failed:
            raise failed[0]

    def _seen(self, photo: Tensor, targets: Tensor | None) -> "_Seen":
        """The photo's views, nothing computed yet."""
        model = self.model
        image = photo.to(model.device)
        if not image.is_floating_point():
            image = normalize(image, model.mean, model.std)
        height, width = photo.shape[-2:]
        views = plan_views(height, width, self.tiling, scales=self.scales, flip=self.flip, max_side=self.max_side)
        return _Seen(image, views, model.activation, photo, targets)

    def _result(self, seen: "_Seen", size: tuple[int, int] | None) -> CAMResult:
        """Merges the computed tiles of one photo: tiles to views, mirror images to scales, scales to maps."""
        model, photo, targets = self.model, seen.photo, seen.targets
        if targets is None:
            targets = _predict(check_finite(seen.scores(model.pool)))
            seen.select(targets.nonzero().flatten())
        cam = check_finite(merge_scales(seen.cams(2 if self.flip else 1), size or (photo.shape[-2], photo.shape[-1])))
        return CAMResult(
            maps=(normalize_cam(cam) if self.normalize else cam).to(photo.device),
            labels=targets.nonzero().flatten().tolist(),
            class_names=model.class_names,
            seed_threshold=model.seed_threshold,
            pixels=denormalize(photo, model.mean, model.std) if photo.is_floating_point() else photo,
            normalized=self.normalize,
        )


class _Seen:
    """One photo: how it is seen, and what came of it so far.

    Args:
        image: (3, H, W) normalized floats on the model's device; let go when it has been cut.
        views: sizes of equal views follow each other, so that the photo is resized once for both.
        activation: the model's.
        photo: (3, H, W), as the user gave it.
        targets: (K,) bool, the photo's classes; None keeps all, for ``select`` to choose later.
    """

    def __init__(
        self, image: Tensor, views: list[View], activation: Activation, photo: Tensor, targets: Tensor | None
    ) -> None:
        self.image: Tensor | None = image
        self.views, self.activation, self.photo, self.targets = views, activation, photo, targets
        self.kept = None if targets is None else targets.nonzero().flatten().to(image.device)
        self.maps: list[list[Tensor]] = [[] for _ in views]
        self.attention: list[list[Tensor]] = [[] for _ in views]
        self.missing = sum(len(view.corners) for view in views)  # tiles that are not computed yet

    def tiles(self) -> Iterator[tuple[int, Tensor]]:
        """All tiles, each with the number of its view."""
        image, self.image = self.image, None
        assert image is not None, "tiles are cut once"
        for size, views in itertools.groupby(enumerate(self.views), lambda numbered: numbered[1].size):
            scaled = resize(image, size, antialias=True)
            for number, view in views:
                yield from ((number, tile) for tile in view.cut(scaled))

    def add(self, number: int, maps: Tensor, attention: Tensor) -> None:
        """(t, K, g, g) and (t, 1, g, g): of the next t tiles of a view."""
        self.maps[number].append(maps if self.kept is None else select_classes(maps, self.kept, self.activation))
        self.attention[number].append(attention)
        self.missing -= len(maps)

    def select(self, kept: Tensor) -> None:
        """Keeps the maps of these classes, for a photo that was seen without knowing them."""
        self.maps = [[select_classes(maps, kept, self.activation) for maps in view] for view in self.maps]

    def scores(self, share: float) -> Tensor:
        """(K,) logits: the merged class maps, pooled; the mean over the views."""
        pairs = zip(self.views, self.maps, strict=True)
        return torch.stack([pool_maps(view.merge(torch.cat(maps).float()), share) for view, maps in pairs]).mean(dim=0)

    def cams(self, pair: int) -> list[Tensor]:
        """(k, h, w) for each scale: attention times class map, merged, activated, ``pair`` views summed."""
        cams = []
        for view, maps, attention in zip(self.views, self.maps, self.attention, strict=True):
            cam = activate(view.merge(torch.cat(maps).float() * torch.cat(attention).float()), self.activation)
            cams.append(cam.flip(-1) if view.mirrored else cam)
        return [torch.stack(scale).sum(dim=0) for scale in _groups(cams, pair)]


def _computed(model: CAMModel, photos: Iterable[_Seen], batch_size: int) -> Iterator[_Seen]:
    """Runs the tiles of all photos through the model; yields each photo, in order, when it has all.

    Tiles of one size form a batch, of as many pixels as ``batch_size`` of the model's tiles have.  If batches of
    several sizes wait and together hold twice as many, the one that began first is run as it is.
    """
    room, waiting = batch_size * model.tile**2, deque[_Seen]()
    queues: dict[tuple[int, ...], list[tuple[_Seen, int, Tensor]]] = {}  # by the tiles' size, the oldest first
    held = 0  # pixels in all queues
    for seen in photos:
        waiting.append(seen)
        for number, tile in seen.tiles():
            size, pixels = tuple(tile.shape), tile[0].numel()
            queues.setdefault(size, []).append((seen, number, tile))
            held += pixels
            full = (len(queues[size]) + 1) * pixels > room
            if full or held > 2 * room:
                batch = queues.pop(size if full else next(iter(queues)))
                held -= sum(tile[0].numel() for _, _, tile in batch)
                _compute(model, batch)
        while waiting and not waiting[0].missing:
            yield waiting.popleft()
    for batch in queues.values():
        _compute(model, batch)
    yield from waiting


def _compute(model: CAMModel, batch: list[tuple[_Seen, int, Tensor]]) -> None:
    """Runs tiles of one size, and gives each view what came of its own."""
    maps, attention = model.tile_maps(torch.stack([tile for _, _, tile in batch]))
    first = 0
    for (seen, number), run in itertools.groupby(batch, lambda item: item[:2]):
        last = first + len(list(run))
        seen.add(number, maps[first:last], attention[first:last])
        first = last


def patch_cams(model: CAMModel, image: Tensor, *, mirror: bool, align: Align, batch_size: int = 16) -> Tensor:
    """The unnormalized CAM of one normalized image at its own size, on the patch grid: (3, H, W) -> (K, h, w)."""
    image = image.to(model.device)
    if align == "exact":
        image = resize(image, snapped_size(image.shape[-2], image.shape[-1], 1.0, model.patch))
    tiling, size = Tiling(model.patch, model.tile, model.stride), (image.shape[-2], image.shape[-1])
    views = [view_of(size, tiling, mirrored, align) for mirrored in ((False, True) if mirror else (False,))]
    (seen,) = _computed(model, [_Seen(image, views, model.activation, image, None)], batch_size)
    seen.select(torch.arange(model.num_classes, device=model.device))
    return seen.cams(len(views))[0]


def _predict(logits: Tensor) -> Tensor:
    """(K,) logits -> (K,) bool: the classes of probability over one half, or the likeliest if there is none."""
    over = logits > 0
    return over if over.any() else over.scatter(0, logits.argmax(dim=0, keepdim=True), True)


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last one maybe shorter."""
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _ahead(items: Iterable[T], count: int = 2) -> Iterator[T]:
    """The items in order; ``count`` of them are asked for in a thread while those before are worked on."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as reader:
        asked = deque(reader.submit(next, iterator, None) for _ in range(count))
        while (item := asked.popleft().result()) is not None:
            asked.append(reader.submit(next, iterator, None))
            yield item
