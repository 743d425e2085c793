"""Pseudo masks of any number of labelled photos: extract, refine, threshold, write; a stopped job goes on.

Beside the masks lies ``manifest.jsonl``, a line a mask: what it was made of and with.  A mask that has no line there,
or does not match it, is made again; so is the mask of a photo whose content or labels have changed.
"""

import errno
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crt._files import remove_leftovers, whole_file
from crt.cam import CAMExtractor, CAMResult, mask_from_cam
from crt.data import ImageDataset, Sample, save_mask
from crt.images import open_image

__all__ = ["PseudoReport", "make_pseudo_masks"]

Cleaner = Callable[[Tensor, Tensor, int], Tensor]
_NO_SUCH_NAME = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
_OF_A_MASK = ("file", "labels", "photo_sha256", "mask_sha256")  # in the manifest; the rest are settings


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
    settings: dict[str, Any] | None = None,
    process: tuple[int, int] = (0, 1),
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
) -> PseudoReport:
    """Writes ``out/NAME.png`` for each photo: 0 background, class i as i + 1, 255 unsure (VOC's palette).

    Args:
        extractor: makes the maps.
        refiner: makes them better (``crt.create_refiner``), or None.
        photos: with their labels; a mask is called as its photo, in the same subfolder.
        out: the folder; made if need be.
        threshold: background score, 0 to 1; two of them mark scores between them as unsure.
        clean: cleans the mask cut at each threshold (``crt.refine.crf_labels``), called with the photo (3, H, W) uint8,
            labels (H, W) from 0, the background, and how many there are.  With two thresholds sure are then the classes
            of the higher one and the background of the lower one: IRN's confident labels.
        settings: what else to tell in the manifest, the model's and the refiner's names for example.  A folder that
            holds masks of other settings is refused.
        process: (i, n), this is process i of n, which share the photos.
        progress: wraps the masks and their number, to show how far it is.

    Returns:
        What was done; a photo that cannot be read or has no labels is in ``failed``, and the others' masks are written
        all the same.

    Raises:
        ValueError: thresholds out of range, two photos of one name, a mask that would overwrite a photo, masks of other
            settings.
        OSError: the folder cannot be written, the disk is full; the masks so far are whole and will be skipped.
    """
    low, high = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"thresholds are 0 to 1, the lower first; got {low} and {high}.")
    if len(photos.class_names) > 254:
        raise ValueError(f"a pixel of a pseudo mask is one byte: 254 classes at most, not {len(photos.class_names)}.")
    folder = Path(out)
    _check_names(photos.samples, folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    settings = {**(settings or {}), "threshold": [low, high], "scales": list(extractor.scales), "flip": extractor.flip}
    if extractor.stride != extractor.model.stride:
        settings["stride"] = extractor.stride
    if clean is not None:
        settings["clean"] = True
    manifest = _Manifest(folder / "manifest.jsonl", settings)
    failed: list[tuple[str, str]] = []
    mine = photos.samples[process[0] :: process[1]]
    todo = [photo for photo in mine if not manifest.has(photo, folder)]
    waiting: deque[_Opened] = deque()
    results = extractor.stream(_opened(extractor, todo, waiting, failed))
    written = 0
    for result in progress(results, len(todo)):
        photo, digest = waiting.popleft()
        target, mask = folder / f"{photo.name}.png", _mask(result, refiner, low, high, clean).cpu()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as temporary:
                save_mask(mask, temporary)
        except OSError as error:
            if error.errno not in _NO_SUCH_NAME:
                raise
            failed.append((str(photo.image), f"its mask cannot be called {target} ({error.strerror})"))
            continue
        manifest.add(photo, digest, target)
        written += 1
    return PseudoReport(written, len(mine) - len(todo), failed)


class _Opened(NamedTuple):
    photo: Sample
    digest: str


def _check_names(photos: list[Sample], folder: Path) -> None:
    """ValueError if two masks would have one name, or one the name of a photo."""
    real = lru_cache(maxsize=None)(os.path.realpath)  # of folders, of which there are few
    images = {(real(photo.image.parent), photo.image.name) for photo in photos}
    names: dict[str, Path] = {}
    for photo in photos:
        if photo.name in names:
            raise ValueError(f"{names[photo.name]} and {photo.image} would have the same mask, {photo.name}.png.")
        names[photo.name] = photo.image
        target = folder / f"{photo.name}.png"
        if (real(target.parent), target.name) in images:
            raise ValueError(f"{target} is a photo, which its mask would overwrite; choose another folder for masks.")


def _opened(
    extractor: CAMExtractor,
    photos: list[Sample],
    waiting: deque[_Opened],
    failed: list[tuple[str, str]],
) -> Iterator[tuple[Tensor, list[int]]]:
    """Decoded photos with their labels; those that cannot be decoded, or have none, go to ``failed``."""
    for photo in photos:
        if not photo.labels:
            failed.append((str(photo.image), "it has no labels"))
            continue
        try:
            pixels = open_image(photo.image)
            digest = _sha256(photo.image)
        except Exception as error:  # decoders raise what they like, and memory may be short
            failed.append((str(photo.image), f"it cannot be read as a photo ({type(error).__name__}: {error})"))
            continue
        waiting.append(_Opened(photo, digest))
        yield pixels, photo.labels


def _mask(
    result: CAMResult, refiner: nn.Module | None, low: float, high: float, clean: Cleaner | None = None
) -> Tensor:
    """(H, W) uint8."""
    cam = result.refined(refiner).cam
    if clean is not None and len(cam):
        return _cleaned(result, cam, low, high, clean)
    mask = mask_from_cam(cam, result.labels, high)
    if low < high and len(cam):
        best = cam.amax(dim=0)
        mask[(best >= low) & (best <= high)] = 255
    return mask


def _cleaned(result: CAMResult, cam: Tensor, low: float, high: float, clean: Cleaner) -> Tensor:
    """(H, W) uint8: classes by the higher threshold, background by both; each mask cleaned on its own."""
    places = range(cam.shape[0])
    foreground = clean(result.pixels, mask_from_cam(cam, places, high), len(cam) + 1).long()
    background = clean(result.pixels, mask_from_cam(cam, places, low), len(cam) + 1) if low < high else foreground
    values = torch.tensor([255, *(i + 1 for i in result.labels)], dtype=torch.uint8, device=foreground.device)
    return values[foreground].masked_fill((foreground == 0) & (background == 0), 0)


class _Manifest:
    """The lines of ``manifest.jsonl``, one a mask.

    Raises:
        ValueError: lines of other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.lines: dict[str, dict[str, Any]] = {}
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if text and not text.endswith("\n"):
            self._append("\n")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self.lines[entry["file"]] = entry
            except (ValueError, TypeError, KeyError):
                continue  # half a line, of a process that was killed: its mask is made again
            before = {name: value for name, value in entry.items() if name not in _OF_A_MASK}
            names = before.keys() | self.settings.keys()
            if changed := sorted(name for name in names if before.get(name) != self.settings.get(name)):
                details = ", ".join(f"{n}: {before.get(n)} then, {self.settings.get(n)} now" for n in changed)
                raise ValueError(f"{path.parent} holds masks of other settings ({details}); choose another folder.")

    def has(self, photo: Sample, folder: Path) -> bool:
        """Whether the mask is there, as the manifest tells it, of this very photo and labels."""
        entry, mask = self.lines.get(photo.name), folder / f"{photo.name}.png"
        try:
            return (
                entry is not None
                and entry["labels"] == photo.labels
                and entry["mask_sha256"] == _sha256(mask)
                and entry["photo_sha256"] == _sha256(photo.image)
            )
        except OSError:
            return False

    def add(self, photo: Sample, digest: str, mask: Path) -> None:
        """Appends a line in one write, so that the lines of several processes do not mix."""
        entry = {
            "file": photo.name,
            "labels": photo.labels,
            "photo_sha256": digest,
            "mask_sha256": _sha256(mask),
            **self.settings,
        }
        self._append(json.dumps(entry) + "\n")

    def _append(self, text: str) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if os.write(descriptor, text.encode()) < len(text.encode()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(descriptor)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
