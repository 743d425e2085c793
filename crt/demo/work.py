"""What the page does, without the page: photos in, pictures, boxes and files out.

Maps are computed once for each photo and choice of settings; another threshold only cuts them again.
"""

import dataclasses
import json
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from crt import viz
from crt._messages import printable
from crt.cam import PRESETS, CAMExtractor, CAMResult
from crt.images import open_image
from crt.masks import save_mask
from crt.models import CRT, create_model
from crt.refine import create_refiner

__all__ = [
    "Request",
    "boxes_table",
    "compute",
    "load",
    "mask_picture",
    "pack",
    "predict_classes",
    "run_batch",
    "short_message",
]

MAX_SIDE = 1024  # pixels; larger photos are reduced when they are read
MAX_PHOTOS = 50  # in one batch


@dataclasses.dataclass(frozen=True)
class Request:
    """What to compute: a photo's file, its classes (none: predict them), and how."""

    photo: str
    classes: tuple[str, ...]
    model: str
    preset: str
    refiner: str


@lru_cache(maxsize=2)
def load(name: str) -> CRT:
    """The trained model of a name; the last two are kept."""
    return create_model(name, pretrained=True)


@lru_cache(maxsize=4)
def _refiner(name: str, model: str) -> torch.nn.Module | None:
    return None if name == "none" else create_refiner(name, pretrained=True, model=load(model))


def compute(request: Request) -> CAMResult:
    """The maps of a photo, refined if asked.

    Raises:
        ValueError, OSError: the photo cannot be read, or the settings do not fit; the message is for the user.
    """
    extractor = CAMExtractor(load(request.model), **PRESETS[request.preset])
    image = open_image(request.photo, max_side=MAX_SIDE)
    (result,) = extractor(image, [list(request.classes)] if request.classes else None)
    return result.refined(_refiner(request.refiner, request.model))


def predict_classes(photo: str, model: str, preset: str) -> list[str]:
    """Names of the classes that the model finds in a photo."""
    return compute(Request(photo, (), model, preset, "none")).names


def mask_picture(result: CAMResult, threshold: float) -> Image.Image:
    """The photo under its mask, with names."""
    return viz.draw_mask(result.pixels, result.mask(threshold), result.class_names)


def heat_maps(result: CAMResult) -> list[tuple[Image.Image, str]]:
    """One heat map for each class, with its name."""
    return [(viz.heat_map(result.pixels, cam), name) for cam, name in zip(result.cam, result.names, strict=True)]


def boxes_table(result: CAMResult, threshold: float) -> list[list[Any]]:
    """A row for each class: name, x0, y0, x1, y1, share of the photo in percent."""
    mask, boxes = result.mask(threshold), result.boxes(threshold)
    rows = []
    for label, name in zip(result.labels, result.names, strict=True):
        share = round(100 * float((mask == label + 1).float().mean()), 1)
        rows.append([name, *boxes.get(name, ("", "", "", "")), share])
    return rows


def pack(results: Iterable[tuple[str, CAMResult]], threshold: float) -> str:
    """A zip with mask, picture and boxes of each named result; its path, in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="crt-demo-"))
    archive = folder / "crt-masks.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        found = {}
        for name, result in results:
            mask = result.mask(threshold).cpu()
            save_mask(mask, folder / "mask.png", wide=mask.dtype != torch.uint8)
            file.write(folder / "mask.png", f"{name}.mask.png")
            file.writestr(f"{name}.png", viz.to_png(result.panel(threshold)))
            found[name] = result.boxes(threshold)
        file.writestr("boxes.json", json.dumps(found, indent=1))
    (folder / "mask.png").unlink(missing_ok=True)
    return str(archive)


def run_batch(
    files: Sequence[str], classes: Sequence[str], model: str, preset: str, refiner: str
) -> Iterator[tuple[str, CAMResult | None, str]]:
    """(name, result, what went wrong) of each photo, one after another; a photo that fails does not stop the others.

    Raises:
        ValueError: more than ``MAX_PHOTOS`` photos.
    """
    if len(files) > MAX_PHOTOS:
        raise ValueError(f"{len(files)} photos: the page takes {MAX_PHOTOS} at once. For more, use `crt pseudo`.")
    seen: dict[str, int] = {}
    for file in files:
        name = re.sub(r"[^\w.\- ]", "_", Path(file).stem).lstrip(".") or "photo"
        seen[name] = seen.get(name, 0) + 1
        name = name if seen[name] == 1 else f"{name}-{seen[name]}"
        try:
            yield name, compute(Request(file, tuple(classes), model, preset, refiner)), ""
        except (ValueError, TypeError, OSError, MemoryError) as error:
            yield name, None, short_message(error, file)


def short_message(error: Exception, *files: str) -> str:
    """What went wrong, for the page: uploads by their names, without the folders that they lie in."""
    text = str(error) or type(error).__name__
    for file in files:
        for path in (file, printable(file)):
            text = text.replace(path, Path(file).name)
    return printable(text)
