"""From photos to class activation maps: read ``CAMExtractor`` from ``__call__`` or ``stream`` down.

A photo is seen at several scales, with its mirror image (``crt.cam.views``); each view is cut into tiles.  The tiles of
all views and photos form one stream that the model computes in batches (``crt.cam.seen``; paper section 3.4 for the
scales and the sum).  The model is asked for one thing only: ``tile_maps``.
"""

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Literal, TypeVar

from torch import Tensor

from crt._messages import placed
from crt.cam.functional import against_background, check_finite, merge_scales, normalize_cam
from crt.cam.protocol import CAMModel
from crt.cam.result import CAMResult
from crt.cam.seen import SeenPhoto, compute_all
from crt.cam.views import check_scales, choose_tiling, plan_views
from crt.images import ImageLike, ImagesLike, denormalize, normalize, resize, shrink_factor, to_tensor, to_tensors
from crt.labels import LabelsLike, to_multi_hot

__all__ = ["CAMExtractor"]

LARGE = 2  # times the largest view
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
        tile: int | Literal["whole", "own"] | None = None,
        normalize: bool = True,
    ) -> None:
        check_scales(scales)
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
    ) -> Generator[CAMResult, None, None]:
        """CAMs of any number of (image, labels) pairs, one after another; only those in flight are held.

        The pairs are asked for, and pictures decoded, in a thread, up to two ahead of the computing.

        Raises:
            TypeError, ValueError, OSError: a pair that cannot be understood, after the results of all before it; the
                message has its number, from 0.
        """

        def understood() -> Iterator[_Pair]:
            for number, pair in enumerate(pairs):
                try:
                    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                        raise TypeError(f"expected (image, labels), got {type(pair).__name__}.")
                    image, labels = pair
                    photo = to_tensor(image, device=self.model.device)
                    targets = to_multi_hot(labels, 1, self.model.num_classes, self.model.class_names)
                except (TypeError, ValueError, OSError) as error:
                    raise placed(error, f"photo {number} of the stream") from error
                yield photo, None if targets is None else targets[0]

        with closing(_ahead(understood())) as ahead:  # whatever happens, the thread has ended afterwards
            yield from self._results(ahead, size)

    def _results(self, pairs: Iterable[_Pair], size: tuple[int, int] | None) -> Iterator[CAMResult]:
        """Each photo's result as soon as its last tile is computed."""
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size must be (H, W) in pixels, got {size}.")
        failed: list[Exception] = []

        def seen() -> Iterator[SeenPhoto]:
            try:
                for photo, targets in pairs:
                    yield self._seen(photo, targets)
            except (TypeError, ValueError, OSError) as error:  # raised below, when the photos before it are done
                failed.append(error)

        for done in compute_all(self.model, seen(), self.batch_size):
            yield self._result(done, size)
        if failed:
            raise failed[0]

    def _seen(self, photo: Tensor, targets: Tensor | None) -> SeenPhoto:
        """The photo's views, nothing computed yet."""
        model, (height, width) = self.model, photo.shape[-2:]
        views = plan_views(height, width, self.tiling, scales=self.scales, flip=self.flip, max_side=self.max_side)
        image = photo.to(model.device)
        if not image.is_floating_point():
            # A photo far larger than it is ever seen is reduced before it becomes floats, four bytes a value.
            shrink = shrink_factor(height, width, LARGE * max(max(view.size) for view in views))
            if shrink < 1:
                image = resize(image, (max(1, round(height * shrink)), max(1, round(width * shrink))), antialias=True)
            image = normalize(image, model.mean, model.std)
        return SeenPhoto(image, views, model.activation, model.spread, photo, targets)

    def _result(self, seen: SeenPhoto, size: tuple[int, int] | None) -> CAMResult:
        """Merges the computed tiles of one photo: tiles to views, mirror images to scales, scales to maps."""
        model, photo, targets = self.model, seen.photo, seen.targets
        logits = check_finite(seen.scores(model.pool)) if targets is None or seen.has_logits else None
        if targets is None:
            assert logits is not None
            targets = _predict(logits)
            seen.select(targets.nonzero().flatten())
        cam = check_finite(merge_scales(seen.cams(2 if self.flip else 1), size or (photo.shape[-2], photo.shape[-1])))
        compete = self.normalize and model.activation == "softmax"
        if compete:
            cam = against_background(cam / len(seen.views))
        elif self.normalize:
            cam = normalize_cam(cam)
        return CAMResult(
            maps=cam.to(photo.device),
            labels=targets.nonzero().flatten().tolist(),
            class_names=model.class_names,
            seed_threshold=model.seed_threshold,
            pixels=denormalize(photo, model.mean, model.std) if photo.is_floating_point() else photo,
            normalized=self.normalize,
            compete=compete,
            scores=None if logits is None else logits.sigmoid().cpu(),
        )


def _predict(logits: Tensor) -> Tensor:
    """(K,) logits -> (K,) bool: the classes of probability over one half, or the likeliest if there is none."""
    over = logits > 0
    return over if over.any() else over.scatter(0, logits.argmax(dim=0, keepdim=True), True)


def _ahead(items: Iterable[T], count: int = 2) -> Generator[T, None, None]:
    """The items in order; ``count`` of them are asked for in a thread while those before are worked on."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as reader:
        asked = deque(reader.submit(next, iterator, None) for _ in range(count))
        while (item := asked.popleft().result()) is not None:
            asked.append(reader.submit(next, iterator, None))
            yield item
