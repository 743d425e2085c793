"""Labeled photos to pseudo masks: what ``crt.jobs`` has to know of them."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from crt.cam import CAMExtractor, CAMResult
from crt.data import ImageDataset, Sample
from crt.jobs.fingerprint import JSON, describe
from crt.jobs.job import JobReport, Progress, run_job, working_side
from crt.jobs.manifest import saved_settings
from crt.pseudo.cut import Cleaner, cut_mask
from crt.pseudo.thresholds import find_thresholds

__all__ = ["make_pseudo_masks"]


def make_pseudo_masks(
    extractor: CAMExtractor,
    refiner: nn.Module | None,
    photos: ImageDataset,
    out: str | os.PathLike[str],
    *,
    threshold: float | tuple[float, float] | Literal["auto"],
    clean: Cleaner | None = None,
    settings: Mapping[str, JSON] | None = None,
    process: tuple[int, int] | None = None,
    claim: Callable[[], int] | None = None,
    progress: Progress = lambda items, total: items,
) -> JobReport:
    """Writes ``out/NAME.png`` for each photo: 0 background, class i as i + 1, 255 unsure (VOC's palette).

    Beside the masks lie ``manifest.jsonl``, one line for each mask, and ``settings.json``, what all of them were made
    with.  A mask without a valid line is made again; so is the mask of a photo whose content or labels have changed.

    Args:
        extractor: makes the maps.
        refiner: makes them better (``crt.create_refiner``), or None.
        photos: with their labels; a mask is named after its photo, in the same subfolder.  A photo known to show none
            of the classes (no labels) gets a mask that is all background.
        out: the folder; made if need be.
        threshold: background score, 0 to 1; two of them mark scores between them as unsure.  "auto" fits two to the
            maps of 200 photos (``find_thresholds``); a job that goes on keeps those it began with.
        clean: cleans the mask cut at each threshold (``crt.refine.crf.crf_labels``), called with the photo (3, H, W)
            uint8, labels (H, W) from 0, the background, and how many there are.  With two thresholds sure are then the
            classes of the higher one and the background of the lower one: IRN's confident labels.
        settings: what else changes the masks and cannot be seen from the other arguments.
        process, claim, progress: see ``crt.jobs.run_job``.

    Returns:
        What this process did.  A photo that cannot be read or computed is in ``failed`` with the reason, and the masks
        of the others are written all the same.

    Raises:
        ValueError: thresholds out of range, a mask that would overwrite a photo, masks of other settings in the folder.
        BlockingIOError: another job is writing to the folder; the message says which.
        OSError: the folder cannot be written, the disk is full; the masks so far are whole and will be skipped.
        KeyboardInterrupt: with a message that says what is done.
    """
    if len(photos.class_names) > 254:
        raise ValueError(f"a pixel of a pseudo mask is one byte: 254 classes at most, not {len(photos.class_names)}.")
    auto = threshold == "auto"
    if isinstance(threshold, str):
        if not auto:
            raise ValueError(f"threshold is a number, two numbers or 'auto', got {threshold!r}.")
        threshold = _earlier(Path(out)) or find_thresholds(extractor, refiner, photos)
    low, high = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"thresholds are 0 to 1, the lower first; got {low} and {high}.")
    made_with: dict[str, JSON] = {
        **(settings or {}),
        "threshold": [low, high],
        **({"threshold_rule": "auto"} if auto else {}),
        "extractor": describe(extractor),
        "refiner": describe(refiner),
        "clean": describe(clean),
    }
    maker = _FromLabels(extractor, refiner, low, high, clean)
    return run_job(maker, photos, out, made_with, process=process, claim=claim, progress=progress)


class _FromLabels:
    """The ``MaskMaker`` of photos with labels."""

    endings: Sequence[str] = (".png",)

    def __init__(
        self, extractor: CAMExtractor, refiner: nn.Module | None, low: float, high: float, clean: Cleaner | None
    ) -> None:
        self.extractor, self.refiner, self.low, self.high, self.clean = extractor, refiner, low, high, clean
        self.device = extractor.model.device
        self.max_side = working_side(extractor.scales, extractor.max_side)

    def needs(self, photo: Sample) -> bool:
        return bool(photo.labels)

    def stream(self, photos: Iterator[tuple[Tensor, list[int]]]) -> Generator[CAMResult, None, None]:
        return self.extractor.stream((pixels, [*labels]) for pixels, labels in photos)

    def mask(self, made: CAMResult) -> Tensor:
        return cut_mask(made, self.refiner, self.low, self.high, self.clean)

    def picture(self, made: CAMResult) -> None:
        return None


def _earlier(folder: Path) -> tuple[float, float] | None:
    """The thresholds that a job with "auto" began with in a folder."""
    told = saved_settings(folder)
    levels = told.get("threshold") if told.get("threshold_rule") == "auto" else None
    if not isinstance(levels, list) or len(levels) != 2 or not all(isinstance(level, float) for level in levels):
        return None
    return float(levels[0]), float(levels[1])  # type: ignore[arg-type]
