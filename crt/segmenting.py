"""Masks without labels of any number of photos; an interrupted job resumes, and several processes share one."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from crt.cam.segment import Segmentation, Segmenter
from crt.data import ImageDataset, Sample
from crt.jobs.fingerprint import describe
from crt.jobs.job import JobReport, Progress, run_job, working_side
from crt.jobs.maker import MaskMaker

__all__ = ["SegmentingModel", "segment_folder"]


class SegmentingModel(Protocol):
    """A network that predicts masks itself, such as ``crt.models.SegmentationNet``."""

    class_names: Sequence[str] | None
    num_classes: int

    @property
    def device(self) -> torch.device: ...

    def segment(self, img: Tensor, **settings: Any) -> Tensor:
        """(3, H, W) uint8 -> (1, H, W) integers; 0 = background, i + 1 = class i."""


def segment_folder(
    model: Segmenter | SegmentingModel,
    photos: Sequence[Sample],
    out: str | os.PathLike[str],
    *,
    seen: Mapping[str, Any] | None = None,
    process: tuple[int, int] | None = None,
    claim: Callable[[], int] | None = None,
    progress: Progress = lambda items, total: items,
) -> JobReport:
    """Writes ``out/NAME.mask.png`` (VOC's palette) and ``out/NAME.png`` (the photo, and its mask with a legend).

    Masks have the photo's size; 0 = background, i + 1 = class i (16 bits beyond 254 classes).  Beside them lie
    ``manifest.jsonl`` and ``settings.json``; what is there already is skipped, as by ``crt.pseudo.make_pseudo_masks``.

    Args:
        model: a ``CRT`` in a ``crt.cam.Segmenter``, or a network with ``segment``.
        photos: their labels are not looked at (``crt.data.unlabelled.list_photos``).
        out: the folder; made if need be.
        seen: arguments of the ``segment`` of a network (scales, flip, max_side); a ``Segmenter`` has its own.
        process, claim, progress: see ``crt.jobs.run_job``.

    Returns:
        What this process did.  A photo that cannot be read or computed is in ``failed`` with the reason, and the masks
        of the others are written all the same.

    Raises:
        ValueError: a file that would overwrite a photo, masks of other settings in the folder.
        BlockingIOError: another job is writing to the folder; the message says which.
        OSError: the folder cannot be written, the disk is full; the masks so far are whole and will be skipped.
        KeyboardInterrupt: with a message that says what is done.
    """
    maker: MaskMaker[Segmentation]
    maker = _Competing(model) if isinstance(model, Segmenter) else _Predicting(model, seen or {})
    plain = [photo._replace(labels=[], mask=None, boxes=None) for photo in photos]
    network = model.model if isinstance(model, Segmenter) else model
    data = ImageDataset(plain, network.class_names or [str(i) for i in range(network.num_classes)])
    settings = {"segmenter": describe(model), "seen": describe(seen)}
    return run_job(maker, data, out, settings, process=process, claim=claim, progress=progress)


class _Maker:
    """What both ways have in common."""

    endings: Sequence[str] = (".mask.png", ".png")
    max_side: int | None
    device: torch.device

    def needs(self, photo: Sample) -> bool:
        return True

    def mask(self, made: Segmentation) -> Tensor:
        return made.mask

    def picture(self, made: Segmentation) -> Image.Image:
        return made.panel()


class _Competing(_Maker):
    """Masks from class maps."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter, self.device = segmenter, segmenter.model.device
        self.max_side = working_side(segmenter.extractor.scales, segmenter.extractor.max_side)

    def stream(self, photos: Iterable[tuple[Tensor, list[int]]]) -> Generator[Segmentation, None, None]:
        return self.segmenter.stream(pixels for pixels, _ in photos)


class _Predicting(_Maker):
    """Masks from a network that predicts them itself."""

    def __init__(self, model: SegmentingModel, seen: Mapping[str, Any]) -> None:
        self.model, self.seen, self.device = model, seen, model.device
        self.max_side = working_side(seen.get("scales", (1.0,)), seen.get("max_side", 640))

    def stream(self, photos: Iterator[tuple[Tensor, list[int]]]) -> Generator[Segmentation, None, None]:
        for pixels, _ in photos:
            yield Segmentation(self.model.segment(pixels, **self.seen)[0], self.model.class_names, pixels)
