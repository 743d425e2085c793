"""One job: photos are read, made into masks and written; what is interrupted goes on.

How a photo becomes a mask is the business of a ``MaskMaker``: ``crt.pseudo`` has one for photos with labels,
``crt.segmenting`` one for photos without.
"""

import errno
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from crt import __version__
from crt._files import ignores_case, lock_folder, remove_leftovers, whole_file
from crt.data import ImageDataset, Sample
from crt.images import image_size, open_image
from crt.jobs.entry import Entry, Stamp
from crt.jobs.fingerprint import JSON, autocast_of
from crt.jobs.maker import MaskMaker, Picture
from crt.jobs.manifest import Manifest
from crt.masks import resize_mask, save_mask

__all__ = ["JobReport", "Progress", "run_job", "working_side"]

CHUNK = 16  # photos that a process claims at once
WORKING_SIDE = 2048  # larger photos are reduced to it when they are read, and their masks enlarged when written
_NO_SUCH_NAME = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
_OF_ONE_PHOTO = (MemoryError, ArithmeticError, RuntimeError, ValueError, TypeError, OSError)
_TOO_MANY = 20  # photos in a row that cannot be computed: then it is not the photos

Progress: TypeAlias = Callable[[Iterable[Any], int], Iterable[Any]]
"""Wraps the masks and their expected number, to show how far a job is."""


class JobReport(NamedTuple):
    """What a job did: masks written, masks that were there already, (file, reason) of each photo that failed."""

    written: int
    skipped: int
    failed: list[tuple[str, str]]


def run_job(
    maker: MaskMaker[Any],
    photos: ImageDataset,
    out: str | os.PathLike[str],
    settings: Mapping[str, JSON],
    *,
    process: tuple[int, int] | None = None,
    claim: Callable[[], int] | None = None,
    progress: Progress = lambda items, total: items,
) -> JobReport:
    """Writes a mask for each photo, in the photo's size, and ``manifest.jsonl`` and ``settings.json`` beside the masks.

    Args:
        maker: how a photo becomes a mask.
        photos: each mask is named after its photo, in the same subfolder.
        out: the folder; made if need be.
        settings: all that changes a mask.
        process: (i, n), this is process i of n, which share the photos; None takes RANK and WORLD_SIZE of a launcher.
        claim: the number of the next chunk of 16 photos that no process of this job has taken, from 0
            (``crt.jobs.peers.Peers.claim``); None gives every nth photo to each process.
        progress: see ``Progress``.

    Returns:
        What this process did.

    Raises:
        ValueError: a mask that would overwrite a photo, masks of other settings in the folder.
        BlockingIOError: another job is writing to the folder; the message says which.
        OSError: the folder cannot be written, the disk is full; the masks so far are whole and will be skipped.
        KeyboardInterrupt: with a message that says what is done.
    """
    rank, world = process or (int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    if not 0 <= rank < world:
        raise ValueError(f"process is (i, n) with i from 0 to n - 1, got {(rank, world)}.")
    folder = Path(out)
    _check_targets(photos.samples, folder, maker.endings)
    folder.mkdir(parents=True, exist_ok=True)
    made_with: dict[str, JSON] = {
        **settings,
        "crt": __version__,
        "classes": list(photos.class_names),
        "working_side": maker.max_side,
        "autocast": autocast_of(maker.device),
    }
    with lock_folder(folder) if rank == 0 else nullcontext():
        manifest = Manifest(folder, made_with, _information(maker.device), lead=rank == 0, endings=maker.endings)
        share = _claimed(claim, len(photos)) if claim is not None else range(rank, len(photos), world)
        report = _Job(maker, photos, manifest).run(share, world, progress)
        if rank == 0:
            remove_leftovers(folder)
    return report


def working_side(scales: Sequence[float], max_side: int | None) -> int | None:
    """The longest side at which photos are read for views of these scales and ``max_side``: no view has more pixels.

    >>> working_side((0.5, 1.0), 640), working_side((1.0, 2.0), 1500), working_side((1.0,), None)
    (2048, 3000, None)
    """
    return None if max_side is None else max(WORKING_SIDE, round(max_side * max(1.0, *scales)))


class _Opened(NamedTuple):
    """A photo that is being worked on, and its size (H, W) in the file; only that counts of one that needs no look."""

    photo: Sample
    stamp: Stamp
    pixels: Tensor | None
    size: tuple[int, int]


class _Job:
    """One process's work on a folder of masks."""

    def __init__(self, maker: MaskMaker[Any], photos: ImageDataset, manifest: Manifest) -> None:
        self.maker, self.photos, self.manifest = maker, photos, manifest
        self.waiting: deque[_Opened] = deque()
        self.written = self.skipped = self.in_a_row = 0
        self.failed: list[tuple[str, str]] = []
        self.doubles = _doubles(photos.samples, maker.endings, ignores_case(manifest.folder))
        self.broken: Exception | None = None  # why no more work can be had

    def run(self, share: Iterable[int], world: int, progress: Progress) -> JobReport:
        """Makes the masks of the photos with these numbers."""
        left = max(len(self.photos) - len(self.manifest), 0)
        try:
            for made in progress(self._results(self._opened(share)), -(-left // world)):
                self._write_unseen()
                self._write(self.waiting.popleft(), made)
            self._write_unseen()
            self.manifest.close()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped: {self.written} masks written to {self.manifest.folder}, {self.skipped} were there, "
                f"{len(self.failed)} failed. The same command goes on from there."
            ) from None
        if self.broken is not None:
            raise self.broken
        return JobReport(self.written, self.skipped, self.failed)

    def _opened(self, share: Iterable[int]) -> Iterator[tuple[Tensor, list[int]]]:
        """Decoded photos for the maker, in whose thread this may run; all photos are added to ``waiting``."""
        numbers = iter(share)
        while True:
            try:
                number = next(numbers, None)
            except Exception as error:  # of a claim: its peers are gone
                self.broken = error
                return
            if number is None:
                return
            photo = self.photos.samples[number]
            if (first := self.doubles.get(number)) is not None:
                self._fail(photo, f"its mask would have the name of that of {first}, {photo.name}.png")
                continue
            if self.manifest.has(photo.name, photo.labels, photo.image):
                self.skipped += 1
                continue
            try:
                stamp, size = Stamp.of(photo.image), image_size(photo.image)
                pixels = open_image(photo.image, max_side=self.maker.max_side)
            except Exception as error:  # decoders raise what they like, and memory may be short
                known = isinstance(error, OSError)
                self._fail(photo, str(error) if known else f"cannot be read ({type(error).__name__}: {error})")
                continue
            needed = self.maker.needs(photo)
            self.waiting.append(_Opened(photo, stamp, pixels if needed else None, size))
            if needed:
                yield pixels, photo.labels

    def _results(self, pairs: Iterator[tuple[Tensor, list[int]]]) -> Iterator[Any]:
        """What is made of each photo, or why nothing is: if a batch fails, its photos are tried one by one."""
        while True:
            failed = True
            try:
                yield from self.maker.stream(pairs)
                failed = False
            except _OF_ONE_PHOTO:
                pass  # first leave the block, which lets go of the batch
            if not failed:
                return
            for photo, _, pixels, _ in list(self.waiting):
                if pixels is not None:
                    yield self._alone(pixels, photo.labels)

    def _alone(self, pixels: Tensor, labels: list[int]) -> Any:
        try:
            return next(iter(self.maker.stream(iter([(pixels, labels)]))))
        except _OF_ONE_PHOTO as error:
            return error

    def _write(self, opened: _Opened, made: Any) -> None:
        """The files of one photo, or its failure."""
        photo = opened.photo
        try:
            if isinstance(made, Exception):
                raise made
            mask = resize_mask(self.maker.mask(made).cpu(), opened.size)
            picture = self.maker.picture(made)
        except FloatingPointError as error:
            return self._fail(photo, str(error))
        except _OF_ONE_PHOTO as error:
            self.in_a_row += 1
            if self.in_a_row >= _TOO_MANY:
                raise
            return self._fail(photo, f"its mask cannot be computed ({type(error).__name__}: {error})")
        self.in_a_row = 0
        return self._save(opened, mask, picture)

    def _write_unseen(self) -> None:
        """The masks of the photos that need no look and come before the next one that does."""
        while self.waiting and self.waiting[0].pixels is None:
            opened = self.waiting.popleft()
            self._save(opened, torch.zeros(opened.size, dtype=torch.uint8), None)

    def _save(self, opened: _Opened, mask: Tensor, picture: Picture | None) -> None:
        """The picture first: a photo is done when its mask is there."""
        photo, ending = opened.photo, self.maker.endings[0]
        target = self.manifest.folder / f"{photo.name}{ending}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if picture is not None:
                with whole_file(self.manifest.folder / f"{photo.name}{self.maker.endings[1]}") as temporary:
                    picture.save(temporary, format="PNG")
            with whole_file(target) as temporary:
                save_mask(mask, temporary, wide=mask.dtype != torch.uint8)
        except MemoryError as error:
            return self._fail(photo, f"its mask cannot be written ({type(error).__name__}: {error})")
        except OSError as error:
            if error.errno not in _NO_SUCH_NAME:
                raise OSError(error.errno, error.strerror or str(error), str(target)) from error
            return self._fail(photo, f"its mask cannot be called {target} ({error.strerror})")
        self.manifest.add(Entry(photo.name, list(photo.labels), opened.stamp, Stamp.of(target)))
        self.written += 1
        return None

    def _fail(self, photo: Sample, reason: str) -> None:
        self.failed.append((str(photo.image), reason))


def _claimed(claim: Callable[[], int], count: int) -> Iterator[int]:
    """The photos of one claimed chunk after another."""
    while (first := claim() * CHUNK) < count:
        yield from range(first, min(first + CHUNK, count))


def _doubles(photos: Sequence[Sample], endings: Sequence[str], folded: bool) -> dict[int, Path]:
    """The numbers of photos whose results would have a name of an earlier photo's, with the earlier one's file.

    Where ``folded``, names that differ in case alone are one.
    """
    numbers: dict[str, int] = {}
    names = (photo.name.casefold() if folded else photo.name for photo in photos)
    firsts = (numbers.setdefault(name, number) for number, name in enumerate(names))
    pairs = [(number, first) for number, first in enumerate(firsts) if first < number]
    # With .mask.png and .png, a photo "x.mask" has a picture where "x" has its mask.
    middles = [a.removesuffix(b) for a in endings for b in endings if a != b and a.endswith(b)]
    for middle in middles:
        for name, number in numbers.items():
            if name.endswith(middle) and (other := numbers.get(name.removesuffix(middle))) is not None:
                pairs.append((max(number, other), min(number, other)))
    return {number: photos[first].image for number, first in pairs}


def _check_targets(photos: Sequence[Sample], folder: Path, endings: Sequence[str]) -> None:
    """ValueError if a file that would be written is a photo."""
    real = lru_cache(maxsize=None)(os.path.realpath)  # of folders, of which there are few
    names, files = (lambda: (p.name for p in photos)), (lambda: (os.fspath(p.image) for p in photos))
    both = {real(part) for part in {*map(os.path.dirname, files())}}
    both &= {real(folder / part) for part in {*map(os.path.dirname, names())}}
    if not both:
        return
    images = {(real(os.path.dirname(file)), os.path.basename(file)) for file in files()}
    for target in (os.path.join(folder, f"{name}{ending}") for name in names() for ending in endings):
        if (real(os.path.dirname(target)), os.path.basename(target)) in images:
            raise ValueError(f"{target} is a photo, which would be overwritten; choose another folder for masks.")


def _information(device: torch.device) -> dict[str, JSON]:
    """What is worth knowing of a job, though masks may be the same without it."""
    return {
        "torch": torch.__version__,
        "timm": version("timm"),
        "device": str(device),
        "host": platform.node(),
    }
