"""The pseudo-mask job: extract, refine, cut, write; what is interrupted goes on."""

import errno
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crt import __version__
from crt._files import lock_folder, remove_leftovers, whole_file
from crt.cam import CAMExtractor, CAMResult
from crt.data import ImageDataset, Sample
from crt.images import open_image
from crt.masks import save_mask
from crt.pseudo.cut import Cleaner, cut_mask
from crt.pseudo.fingerprint import JSON, autocast_of, describe
from crt.pseudo.manifest import Entry, Manifest, Stamp

__all__ = ["PseudoReport", "make_pseudo_masks"]

CHUNK = 16  # photos that a process claims at once
_NO_SUCH_NAME = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
_OF_ONE_PHOTO = (MemoryError, ArithmeticError, RuntimeError, ValueError, TypeError, OSError)
_TOO_MANY = 20  # photos in a row that cannot be computed: then it is not the photos


class PseudoReport(NamedTuple):
    """What a job did: masks written, masks that were there already, (file, reason) of each photo that failed."""

    written: int
    skipped: int
    failed: list[tuple[str, str]]


def make_pseudo_masks(
    extractor: CAMExtractor,
    refiner: nn.Module | None,
    photos: ImageDataset,
    out: str | os.PathLike[str],
    *,
    threshold: float | tuple[float, float],
    clean: Cleaner | None = None,
    settings: Mapping[str, JSON] | None = None,
    process: tuple[int, int] | None = None,
    claim: Callable[[], int] | None = None,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
) -> PseudoReport:
    """Writes ``out/NAME.png`` for each photo: 0 background, class i as i + 1, 255 unsure (VOC's palette).

    Beside the masks lie ``manifest.jsonl``, one line for each mask, and ``settings.json``, what all of them were made
    with.  A mask without a valid line is made again; so is the mask of a photo whose content or labels have changed.

    Args:
        extractor: makes the maps.
        refiner: makes them better (``crt.create_refiner``), or None.
        photos: with their labels; a mask is named after its photo, in the same subfolder.  A photo known to show none
            of the classes (no labels) gets a mask that is all background.
        out: the folder; made if need be.
        threshold: background score, 0 to 1; two of them mark scores between them as unsure.
        clean: cleans the mask cut at each threshold (``crt.refine.crf.crf_labels``), called with the photo (3, H, W)
            uint8, labels (H, W) from 0, the background, and how many there are.  With two thresholds sure are then the
            classes of the higher one and the background of the lower one: IRN's confident labels.
        settings: what else changes the masks and cannot be seen from the other arguments.
        process: (i, n), this is process i of n, which share the photos; None takes RANK and WORLD_SIZE of a launcher.
        claim: the number of the next chunk of 16 photos that no process of this job has taken, from 0
            (``crt.pseudo.Peers.claim``); None gives every nth photo to each process.
        progress: wraps the masks and their expected number, to show how far it is.

    Returns:
        What this process did.  A photo that cannot be read or computed is in ``failed`` with the reason, and the masks
        of the others are written all the same.

    Raises:
        ValueError: thresholds out of range, a mask that would overwrite a photo, masks of other settings in the folder.
        BlockingIOError: another job is writing to the folder; the message says which.
        OSError: the folder cannot be written, the disk is full; the masks so far are whole and will be skipped.
        KeyboardInterrupt: with a message that says what is done.
    """
    low, high = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"thresholds are 0 to 1, the lower first; got {low} and {high}.")
    if len(photos.class_names) > 254:
        raise ValueError(f"a pixel of a pseudo mask is one byte: 254 classes at most, not {len(photos.class_names)}.")
    rank, world = process or (int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    if not 0 <= rank < world:
        raise ValueError(f"process is (i, n) with i from 0 to n - 1, got {(rank, world)}.")
    folder = Path(out)
    _check_targets(photos.samples, folder)
    folder.mkdir(parents=True, exist_ok=True)
    made_with: dict[str, JSON] = {
        **(settings or {}),
        "crt": __version__,
        "classes": list(photos.class_names),
        "threshold": [low, high],
        "extractor": describe(extractor),
        "refiner": describe(refiner),
        "clean": describe(clean),
        "autocast": autocast_of(extractor.model.device),
    }
    with lock_folder(folder) if rank == 0 else nullcontext():
        job = _Job(extractor, refiner, photos, Manifest(folder, made_with, _information(extractor), lead=rank == 0))
        job.low, job.high, job.clean = low, high, clean
        share = _claimed(claim, len(photos)) if claim is not None else range(rank, len(photos), world)
        report = job.run(share, world, progress)
        if rank == 0:
            remove_leftovers(folder)
    return report


class _Opened(NamedTuple):
    """A photo that is being worked on; of one without labels only its size (H, W) counts."""

    photo: Sample
    stamp: Stamp
    pixels: Tensor | None
    size: tuple[int, int]


class _Job:
    """One process's work on a folder of masks."""

    low: float
    high: float
    clean: Cleaner | None

    def __init__(
        self, extractor: CAMExtractor, refiner: nn.Module | None, photos: ImageDataset, manifest: Manifest
    ) -> None:
        self.extractor, self.refiner, self.photos, self.manifest = extractor, refiner, photos, manifest
        self.waiting: deque[_Opened] = deque()
        self.written = self.skipped = self.in_a_row = 0
        self.failed: list[tuple[str, str]] = []
        self.doubles = _doubles(photos.samples)
        self.broken: Exception | None = None  # why no more work can be had

    def run(
        self, share: Iterable[int], world: int, progress: Callable[[Iterable[Any], int], Iterable[Any]]
    ) -> PseudoReport:
        """Makes the masks of the photos with these numbers."""
        left = max(len(self.photos) - len(self.manifest), 0)
        try:
            for result in progress(self._results(self._opened(share)), -(-left // world)):
                self._write_negatives()
                self._write(self.waiting.popleft(), result)
            self._write_negatives()
            self.manifest.close()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped: {self.written} masks written to {self.manifest.folder}, {self.skipped} were there, "
                f"{len(self.failed)} failed. The same command goes on from there."
            ) from None
        if self.broken is not None:
            raise self.broken
        return PseudoReport(self.written, self.skipped, self.failed)

    def _opened(self, share: Iterable[int]) -> Iterator[tuple[Tensor, list[int]]]:
        """Decoded photos with labels, for the extractor, in whose thread this runs; all are added to ``waiting``."""
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
                stamp = Stamp.of(photo.image)
                pixels = open_image(photo.image)
            except Exception as error:  # decoders raise what they like, and memory may be short
                known = isinstance(error, OSError)
                self._fail(photo, str(error) if known else f"cannot be read ({type(error).__name__}: {error})")
                continue
            kept = pixels if photo.labels else None
            self.waiting.append(_Opened(photo, stamp, kept, (pixels.shape[-2], pixels.shape[-1])))
            if photo.labels:
                yield pixels, photo.labels

    def _results(self, pairs: Iterator[tuple[Tensor, list[int]]]) -> Iterator[CAMResult | Exception]:
        """The maps of each photo, or why it has none: if a batch fails, its photos are tried one by one."""
        while True:
            failed = True
            try:
                yield from self.extractor.stream(pairs)
                failed = False
            except _OF_ONE_PHOTO:
                pass  # first leave the block, which ends the stream's thread
            if not failed:
                return
            for photo, _, pixels, _ in list(self.waiting):
                if pixels is not None:
                    yield self._alone(pixels, photo.labels)

    def _alone(self, pixels: Tensor, labels: list[int]) -> CAMResult | Exception:
        try:
            return self.extractor(pixels, [labels])[0]
        except _OF_ONE_PHOTO as error:
            return error

    def _write(self, opened: _Opened, result: CAMResult | Exception) -> None:
        """The mask of one photo, or its failure."""
        photo = opened.photo
        try:
            if isinstance(result, Exception):
                raise result
            mask = cut_mask(result, self.refiner, self.low, self.high, self.clean).cpu()
        except FloatingPointError as error:
            return self._fail(photo, str(error))
        except _OF_ONE_PHOTO as error:
            self.in_a_row += 1
            if self.in_a_row >= _TOO_MANY:
                raise
            return self._fail(photo, f"its mask cannot be computed ({type(error).__name__}: {error})")
        self.in_a_row = 0
        return self._save(opened, mask)

    def _write_negatives(self) -> None:
        """The masks of the photos without labels that come before the next one with any."""
        while self.waiting and not self.waiting[0].photo.labels:
            opened = self.waiting.popleft()
            self._save(opened, torch.zeros(opened.size, dtype=torch.uint8))

    def _save(self, opened: _Opened, mask: Tensor) -> None:
        photo = opened.photo
        target = self.manifest.folder / f"{photo.name}.png"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as temporary:
                save_mask(mask, temporary)
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


def _doubles(photos: Iterable[Sample]) -> dict[int, Path]:
    """The numbers of photos whose name an earlier one has, with the earlier one's file."""
    names: dict[str, Path] = {}
    return {i: names[p.name] for i, p in enumerate(photos) if names.setdefault(p.name, p.image) is not p.image}


def _check_targets(photos: Iterable[Sample], folder: Path) -> None:
    """ValueError if a mask would overwrite a photo."""
    real = lru_cache(maxsize=None)(os.path.realpath)  # of folders, of which there are few
    images = {(real(p.image.parent), p.image.name) for p in photos if p.image.suffix.lower() == ".png"}
    for photo in photos if images else ():
        target = folder / f"{photo.name}.png"
        if (real(target.parent), target.name) in images:
            raise ValueError(f"{target} is a photo, which its mask would overwrite; choose another folder for masks.")


def _information(extractor: CAMExtractor) -> dict[str, JSON]:
    """What is worth knowing of a job, though masks may be the same without it."""
    return {
        "torch": torch.__version__,
        "timm": version("timm"),
        "device": str(extractor.model.device),
        "host": platform.node(),
    }
