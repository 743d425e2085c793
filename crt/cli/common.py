"""The grammar that all verbs share: each option is declared here once, and turned into what the library takes."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crt.cli.screen import complain, err, note, out, progress_bar, say

if TYPE_CHECKING:
    import torch
    from torch import nn

    from crt.cam import CAMExtractor
    from crt.data import ImageDataset
    from crt.models import CRT

__all__ = [
    "CUB",
    "DEFAULT_MODEL",
    "VOC",
    "BFloat16",
    "BatchSize",
    "Classes",
    "Device",
    "Flip",
    "Images",
    "Labels",
    "Model",
    "Preset",
    "Refine",
    "Scales",
    "Split",
    "Stride",
    "Truth",
    "autocast",
    "check_apart",
    "class_list",
    "complain",
    "err",
    "factors",
    "find_device",
    "labelled_images",
    "load_model",
    "load_refiner",
    "make_extractor",
    "note",
    "out",
    "progress_bar",
    "say",
    "view_settings",
]

_DATA, _VIEW, _MACHINE = "Data set", "How images are seen", "Machine"

Images = Annotated[
    Path | None,
    typer.Option(
        help="Folder of images. Give --labels too, unless each subfolder holds the images of one class.",
        rich_help_panel=_DATA,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Labels of --images: a CSV file with the columns file,labels, or COCO annotations (.json).",
        rich_help_panel=_DATA,
    ),
]
VOC = Annotated[
    Path | None, typer.Option(help="Instead of --images: a folder laid out as PASCAL VOC.", rich_help_panel=_DATA)
]
CUB = Annotated[
    Path | None, typer.Option(help="Instead of --images: a folder laid out as CUB-200-2011.", rich_help_panel=_DATA)
]
Split = Annotated[
    str | None,
    typer.Option(
        "--list", help="Which images of --voc (default: cls_train) or --cub (default: train).", rich_help_panel=_DATA
    ),
]
Truth = Annotated[
    Path | None,
    typer.Option(help="Folder of ground-truth masks for --images, one NAME.png per image.", rich_help_panel=_DATA),
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Class names in mask order, separated by commas, or a text file with one per line. "
        "Default: the model's or the data set's.",
        rich_help_panel=_DATA,
    ),
]

DEFAULT_MODEL = "crt_vit_s16"
Model = Annotated[
    str, typer.Option(help="Model: a name from `crt models`, local-dir:FOLDER, or hf-hub:ORG/NAME from the Hub.")
]
Refine = Annotated[
    str,
    typer.Option(
        help="Refiners to apply to the maps, joined by + (pamr, irn_lite0, ...), local-dir:RUN/model, or none."
    ),
]

Preset = Annotated[
    str | None,
    typer.Option(
        help="fast, whole (the image at once, not in tiles), or paper (more scales, overlapping tiles; slower). "
        "Default: whole for models trained to see whole images, fast for others.",
        rich_help_panel=_VIEW,
    ),
]
Scales = Annotated[
    str | None,
    typer.Option(help="Image scales, separated by commas; replaces the preset's.", rich_help_panel=_VIEW),
]
Flip = Annotated[
    bool | None,
    typer.Option("--flip/--no-flip", help="Also see the mirrored image; replaces the preset's.", rich_help_panel=_VIEW),
]
Stride = Annotated[
    int | None,
    typer.Option(min=1, help="Tile stride in pixels; default: the preset's, then the model's.", rich_help_panel=_VIEW),
]

Device = Annotated[
    str,
    typer.Option(help="auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:N or mps.", rich_help_panel=_MACHINE),
]
BatchSize = Annotated[
    int,
    typer.Option(min=1, help="Tiles computed at once; lower it if memory runs out.", rich_help_panel=_MACHINE),
]
BFloat16 = Annotated[
    bool,
    typer.Option("--bf16", help="Compute in bfloat16 (autocast): faster on recent GPUs.", rich_help_panel=_MACHINE),
]


def find_device(name: str) -> "torch.device":
    """The device that --device names; "auto" takes CUDA, then MPS, then the CPU.

    Where a launcher has started several processes, "cuda" is this process's own GPU.

    Raises:
        ValueError: unknown, or not available here.
    """
    import torch

    available = [
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
        "cpu",
    ]
    try:
        device = torch.device(available[0] if name == "auto" else name)
        if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.zeros(1, device=device).cpu()  # nothing comes back from "meta"
    except Exception as error:  # builds of torch differ in what they raise, some a page that lists all their backends
        raise ValueError(
            f"--device {name}: there is no such device here; use auto or one of {', '.join(available)}."
        ) from error
    return device


@contextmanager
def autocast(device: "torch.device", bf16: bool) -> Iterator[None]:
    """bfloat16 inside, if it is asked for."""
    import torch

    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        yield


def load_model(model: str, device: "torch.device") -> "CRT":
    """A pretrained model on a device."""
    import crt

    return crt.create_model(model, pretrained=True).to(device)


def load_refiner(refine: str, network: "CRT", device: "torch.device") -> "nn.Module | None":
    """None for "none"."""
    from crt.refine import create_refiner

    return None if refine == "none" else create_refiner(refine, pretrained=True, model=network).to(device)


def make_extractor(
    network: "CRT",
    batch_size: int,
    scales: str | None,
    flip: bool | None,
    stride: int | None = None,
    preset: str | None = "",
) -> "CAMExtractor":
    """The ``CAMExtractor`` that the options ask for, see ``view_settings``."""
    from crt.cam import CAMExtractor

    return CAMExtractor(network, batch_size=batch_size, **view_settings(network, scales, flip, stride, preset))


def view_settings(
    network: object, scales: str | None, flip: bool | None, stride: int | None, preset: str | None
) -> dict[str, Any]:
    """How images are seen: a preset's settings, and in their place the options that are given.

    None takes "whole" for models that see images at once by default, "fast" for others; "" the library's defaults.
    """
    from crt.cam import PRESETS

    if preset and preset not in PRESETS:
        raise ValueError(f"--preset {preset}: choose one of {', '.join(PRESETS)}. (Training recipes are --recipe.)")
    if preset is None:  # a stride asks for tiles
        preset = "whole" if getattr(network, "whole", False) and stride is None else "fast"
    given = {"scales": None if scales is None else factors(scales), "flip": flip, "stride": stride}
    return {**PRESETS.get(preset, {}), **{name: value for name, value in given.items() if value is not None}}


def labelled_images(
    images: Path | None,
    labels: Path | None,
    voc: Path | None,
    cub: Path | None,
    split: str | None,
    *,
    class_names: Sequence[str] | None = None,
    unusable: list[str] | None = None,
) -> "ImageDataset":
    """The data set that the options name; ``class_names`` and ``unusable`` as in ``crt.data.load_dataset``."""
    from crt.data import load_dataset

    return load_dataset(
        images=images, labels=labels, voc=voc, cub=cub, split=split, class_names=class_names, unusable=unusable
    )


def class_list(text: str | None) -> list[str] | None:
    """The names that --classes gives: separated by commas, or the lines of a text file.

    Raises:
        ValueError: no names, or one of them twice.
    """
    if text is None:
        return None
    file = Path(text).expanduser()
    try:
        separate = file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else text.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--classes {text}: not a text file in UTF-8 ({error}).") from error
    names = [name.strip() for name in separate if name.strip()]
    if not names:
        raise ValueError(f"--classes {text!r} names no class; expected names separated by commas, or a text file.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--classes names {', '.join(twice)} more than once.")
    if len(names) == 1 and re.search(r"[\\/]|\.txt$", names[0]) and not file.is_file():
        raise ValueError(f"--classes {text}: there is no such file.")
    return names


def check_apart(output: Path, images: Path | None, labels: Path | None) -> None:
    """ValueError if the output lies where each subfolder is a class of images."""
    if images is not None and labels is None and images.resolve() in (output.resolve(), *output.resolve().parents):
        raise ValueError(f"--out {output} lies in {images}, where each subfolder is a class; choose another folder.")


def factors(text: str, option: str = "--scales") -> tuple[float, ...]:
    """ "0.5,1" -> (0.5, 1.0)"""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected numbers separated by commas, like 0.5,1.") from None
