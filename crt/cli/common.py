"""What options become: a device, a model, how images are seen, class names; and how a job of masks ends."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from crt.cli.options import Seen
from crt.cli.screen import complain, say

if TYPE_CHECKING:
    import torch
    from torch import nn

    from crt.cam import CAMExtractor
    from crt.jobs.job import JobReport
    from crt.jobs.peers import Peers
    from crt.models import CRT

__all__ = [
    "autocast",
    "class_list",
    "factors",
    "find_device",
    "finish_job",
    "load_model",
    "load_refiner",
    "make_extractor",
    "view_settings",
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


def make_extractor(network: "CRT", batch_size: int, seen: Seen) -> "CAMExtractor":
    """The ``CAMExtractor`` that the options ask for, see ``view_settings``."""
    from crt.cam import CAMExtractor

    return CAMExtractor(network, batch_size=batch_size, **view_settings(network, seen))


def view_settings(network: object, seen: Seen) -> dict[str, Any]:
    """How images are seen: a preset's settings, and in their place the options that are given.

    Without a preset, "whole" for models that see images at once by default, "fast" for others; "" is the library's
    defaults.
    """
    from crt.cam import PRESETS

    preset, scales, flip, stride = seen
    if preset and preset not in PRESETS:
        raise ValueError(f"--preset {preset}: choose one of {', '.join(PRESETS)}. (Training recipes are --recipe.)")
    if preset is None:  # a stride asks for tiles
        preset = "whole" if getattr(network, "whole", False) and stride is None else "fast"
    given = {"scales": None if scales is None else factors(scales), "flip": flip, "stride": stride}
    return {**PRESETS.get(preset, {}), **{name: value for name, value in given.items() if value is not None}}


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


def factors(text: str, option: str = "--scales") -> tuple[float, ...]:
    """ "0.5,1" -> (0.5, 1.0)"""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected numbers separated by commas, like 0.5,1.") from None


def finish_job(peers: "Peers", report: "JobReport", output: Path, *, refused: int = 0) -> None:
    """Lists what failed, waits for the other processes, and says what all of them did; ``refused`` failed before."""
    for file, reason in report.failed:
        complain(f"{file}: {reason}")
    written, skipped, failed = peers.finish((report.written, report.skipped, len(report.failed) + refused))
    if peers.rank == 0:
        say(f"{written} masks written, {skipped} already there, {failed} failed -> {output}")
    if failed:
        raise typer.Exit(2)
