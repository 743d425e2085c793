"""Some photos of a run at each stage: pictures for the report, and what changed from stage to stage."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from crt.cam import CAMResult
from crt.data import ImageDataset, Sample
from crt.images import open_image
from crt.masks import load_mask
from crt.models import CRT, SegmentationNet
from crt.pipeline.stages import make_extractor
from crt.train.loop import Progress
from crt.viz import draw_mask, heat_map, overlay

__all__ = ["SHOWN", "Counts", "Photo", "Shown", "choose_samples", "show_samples"]

SHOWN = 20  # photos on the sheet
COUNTED = 60  # photos that shares are taken from
SIDE = 360  # of a picture, pixels
UNSURE = 255
LEAST = 0.005  # share of a mask that a class must cover to count as found


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo on the sheet.

    Attributes:
        name: of the photo.
        labels: names of its classes.
        found: names of the classes in the final mask.
        pictures: a JPEG for each stage, the photo itself first.
    """

    name: str
    labels: list[str]
    found: list[str]
    pictures: list[bytes]


@dataclasses.dataclass
class Counts:
    """Pixels of one stage over all photos looked at.

    Attributes:
        classes: (K + 2,) pixels of the background, of each class, and unsure ones.
        changed, compared: pixels that differ from the stage before, among those that are sure in both.
    """

    classes: Tensor
    changed: int = 0
    compared: int = 0


@dataclasses.dataclass
class Shown:
    """What the report shows of the stages.

    Attributes:
        stages: their titles, in order, without the photo itself.
        photos: at most ``SHOWN``.
        counts: one for each of ``stages``.
        looked: photos that were looked at.
        right, missed, extra: classes of these photos that the final mask shows, does not show, and shows in error.
    """

    stages: list[str]
    photos: list[Photo]
    counts: list[Counts]
    looked: int = 0
    right: int = 0
    missed: int = 0
    extra: int = 0


def choose_samples(dataset: ImageDataset, count: int = COUNTED) -> list[Sample]:
    """Photos of all classes in turn, and negatives as one more class; the same for the same data set.

    Each class's photos are taken from all over its list.
    """
    groups = [[s for s in dataset if label in s.labels] for label in range(len(dataset.class_names))]
    groups.append([s for s in dataset if not s.labels])
    turns = max(1, -(-count // len(groups)))
    queues = [group[:: max(1, len(group) // turns)] for group in groups]
    chosen: dict[str, Sample] = {}
    for turn in range(max(map(len, queues), default=0)):
        for queue in queues:
            if turn < len(queue) and len(chosen) < count:
                chosen.setdefault(queue[turn].name, queue[turn])
    return list(chosen.values())


@torch.no_grad()
def show_samples(
    cams: CRT,
    model: CRT | SegmentationNet,
    samples: Sequence[Sample],
    folders: Mapping[str, Path],
    progress: Progress,
) -> Shown:
    """Looks at photos with the models of a run.

    Args:
        cams: the CAM stage's model.
        model: the final one.
        samples: see ``choose_samples``.
        folders: of the masks of each stage in between, by its name.
        progress: wraps the photos.
    """
    names, titles = list(cams.class_names or ()), ["maps", *folders, "final mask"]
    shown = Shown(titles, [], [Counts(torch.zeros(len(names) + 2, dtype=torch.int64)) for _ in titles])
    extractor = make_extractor(cams)
    for number, sample in enumerate(progress(samples, 0, len(samples), lambda: "pictures")):
        pixels = open_image(sample.image)
        result = extractor(pixels.to(cams.device), [sample.labels])[0]
        between = [torch.from_numpy(load_mask(folder / f"{sample.name}.png")).long() for folder in folders.values()]
        final = model.segment(pixels)[0].cpu().long()
        _count(shown, [result.mask().cpu().long(), *between, final])
        found = [i for i in range(len(names)) if (final == i + 1).float().mean() > LEAST]
        shown.looked += 1
        shown.right += len({*found} & {*sample.labels})
        shown.missed += len({*sample.labels} - {*found})
        shown.extra += len({*found} - {*sample.labels})
        if number < SHOWN:
            listed = [names[i] for i in sample.labels], [names[i] for i in found]
            shown.photos.append(Photo(sample.name, *listed, _pictures(pixels, result, [*between, final], names)))
    return shown


def _count(shown: Shown, masks: Sequence[Tensor]) -> None:
    """Adds one photo's masks, one a stage."""
    before = None
    for counts, mask in zip(shown.counts, masks, strict=True):
        last = len(counts.classes) - 1
        counts.classes += torch.where(mask == UNSURE, last, mask).flatten().bincount(minlength=last + 1)
        if before is not None:
            sure = (mask != UNSURE) & (before != UNSURE)
            counts.compared += int(sure.sum())
            counts.changed += int((sure & (mask != before)).sum())
        before = mask


def _pictures(pixels: Tensor, result: CAMResult, masks: Sequence[Tensor], names: Sequence[str]) -> list[bytes]:
    """JPEGs of the photo, its maps, and it under each mask."""
    height, width = pixels.shape[-2:]
    factor = min(1.0, SIDE / max(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    small = F.interpolate(pixels[None].float(), size, mode="bilinear", antialias=True)[0].round().clamp(0, 255).byte()
    maps = result.cam.cpu()
    seen = heat_map(small, maps[0]) if len(result.labels) == 1 else overlay(small, maps, result.labels)
    drawn = [draw_mask(small, _shrink(mask, size), names) for mask in masks]
    photo = Image.fromarray(small.permute(1, 2, 0).contiguous().numpy())
    return [_jpeg(picture) for picture in (photo, seen, *drawn)]


def _shrink(mask: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(mask[None, None].float(), size, mode="nearest")[0, 0].long()


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="JPEG", quality=80, optimize=True)
    return file.getvalue()
