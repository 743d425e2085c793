"""One photo on its way through the network: the tiles it becomes, and what comes of them.

Tiles of all views and photos form one stream, which the model computes in batches (``compute_all``); ``SeenPhoto``
collects what belongs to one photo, and puts it together again.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from crt.cam.functional import Activation, Align, activate, pool_maps, select_classes, snapped_size
from crt.cam.protocol import CAMModel, TileMaps
from crt.cam.spread import spread
from crt.cam.views import Tiling, View, view_of
from crt.images import resize

__all__ = ["SeenPhoto", "compute_all", "patch_cams"]

T = TypeVar("T")


class SeenPhoto:
    """One photo: how it is seen, and what came of it so far.

    Args:
        image: (3, H, W) normalized floats on the model's device; let go when it has been cut.
        views: sizes of equal views follow each other, so that the photo is resized once for both.
        activation, spread: the model's.
        photo: (3, H, W), as the user gave it.
        targets: (K,) bool, the photo's classes; None keeps all, for ``select`` to choose later.
    """

    def __init__(
        self,
        image: Tensor,
        views: list[View],
        activation: Activation,
        spread: float,
        photo: Tensor,
        targets: Tensor | None,
    ) -> None:
        self.image: Tensor | None = image
        self.views, self.activation, self.spread = views, activation, spread
        self.photo, self.targets = photo, targets
        self.kept = None if targets is None else targets.nonzero().flatten().to(image.device)
        self.maps: list[list[Tensor]] = [[] for _ in views]
        self.attention: list[list[Tensor]] = [[] for _ in views]
        self.features: list[list[Tensor]] = [[] for _ in views]
        self.logits: list[list[Tensor]] = [[] for _ in views]
        self.missing = sum(len(view.corners) for view in views)  # tiles that are not computed yet

    def tiles(self) -> Iterator[tuple[int, Tensor]]:
        """All tiles, each with the number of its view."""
        image, self.image = self.image, None
        assert image is not None, "tiles are cut once"
        for size, views in itertools.groupby(enumerate(self.views), lambda numbered: numbered[1].size):
            scaled = resize(image, size, antialias=True)
            for number, view in views:
                yield from ((number, tile) for tile in view.cut(scaled))

    def add(self, number: int, found: TileMaps) -> None:
        """What was computed on the next t tiles of a view."""
        maps = found.maps
        self.maps[number].append(maps if self.kept is None else select_classes(maps, self.kept, self.activation))
        self.attention[number].append(found.attention)
        if found.features is not None:
            self.features[number].append(found.features)
        if found.logits is not None:
            self.logits[number].append(found.logits)
        self.missing -= len(maps)

    def select(self, kept: Tensor) -> None:
        """Keeps the maps of these classes, for a photo that was seen without knowing them."""
        self.maps = [[select_classes(maps, kept, self.activation) for maps in view] for view in self.maps]

    @property
    def has_logits(self) -> bool:
        """Whether a classifier beside the maps has scored the photo."""
        return bool(self.logits[0])

    def scores(self, share: float) -> Tensor:
        """(K,) logits: the classifier's mean over the tiles, or the merged class maps, pooled; the mean over views."""
        if self.has_logits:
            return torch.stack([torch.cat(view).float().mean(dim=0) for view in self.logits]).mean(dim=0)
        pairs = zip(self.views, self.maps, strict=True)
        return torch.stack([pool_maps(view.merge(torch.cat(maps).float()), share) for view, maps in pairs]).mean(dim=0)

    def cams(self, pair: int) -> list[Tensor]:
        """(k, h, w) for each scale: attention times class map, merged, activated, spread, ``pair`` views summed."""
        cams = []
        for view, maps, attention, features in zip(self.views, self.maps, self.attention, self.features, strict=True):
            cam = activate(view.merge(torch.cat(maps).float() * torch.cat(attention).float()), self.activation)
            if self.spread and features:
                directions = view.merge(torch.cat(features).float()).flatten(1).T
                cam = spread(cam.flatten(1), directions, power=self.spread).view_as(cam)
            cams.append(cam.flip(-1) if view.mirrored else cam)
        return [torch.stack(scale).sum(dim=0) for scale in grouped(cams, pair)]


def compute_all(model: CAMModel, photos: Iterable[SeenPhoto], batch_size: int) -> Iterator[SeenPhoto]:
    """Runs the tiles of all photos through the model; yields each photo, in order, when it has all.

    Tiles of one size form a batch, of as many pixels as ``batch_size`` of the model's tiles have.  If batches of
    several sizes wait and together hold twice as many, the one that began first is run as it is.
    """
    room, waiting = batch_size * model.tile**2, deque[SeenPhoto]()
    queues: dict[tuple[int, ...], list[tuple[SeenPhoto, int, Tensor]]] = {}  # by the tiles' size, the oldest first
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


def _compute(model: CAMModel, batch: list[tuple[SeenPhoto, int, Tensor]]) -> None:
    """Runs tiles of one size, and gives each view what came of its own."""
    found = TileMaps(*model.tile_maps(torch.stack([tile for _, _, tile in batch])))
    first = 0
    for (seen, number), run in itertools.groupby(batch, lambda item: item[:2]):
        last = first + len(list(run))
        logits, features = (None if part is None else part[first:last] for part in (found.logits, found.features))
        seen.add(number, TileMaps(found.maps[first:last], found.attention[first:last], logits, features))
        first = last


def patch_cams(model: CAMModel, image: Tensor, *, mirror: bool, align: Align, batch_size: int = 16) -> Tensor:
    """The unnormalized CAM of one normalized image at its own size, on the patch grid: (3, H, W) -> (K, h, w)."""
    image = image.to(model.device)
    if align == "exact":
        image = resize(image, snapped_size(image.shape[-2], image.shape[-1], 1.0, model.patch))
    tiling, size = Tiling(model.patch, model.tile, model.stride), (image.shape[-2], image.shape[-1])
    views = [view_of(size, tiling, mirrored, align) for mirrored in ((False, True) if mirror else (False,))]
    (seen,) = compute_all(model, [SeenPhoto(image, views, model.activation, model.spread, image, None)], batch_size)
    seen.select(torch.arange(model.num_classes, device=model.device))
    return seen.cams(len(views))[0]


def grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last one maybe shorter."""
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group
