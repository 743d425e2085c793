"""What all verbs share: options, the screen, errors of one line."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track

out, err = Console(), Console(stderr=True)

Preset = Annotated[str, typer.Option(help="How photos are seen: paper or fast (docs/performance.md).")]
Scales = Annotated[
    str | None,
    typer.Option(help="Factors at which photos are seen, separated by commas; mirror and stride remain."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")]
Model = Annotated[str, typer.Option(help="A name of `crt models`, hf-hub:ORG/NAME or local-dir:PATH.")]
Flip = Annotated[
    bool | None, typer.Option("--flip/--no-flip", help="Add the map of the mirrored photo; none: as the preset says.")
]
Stride = Annotated[
    int | None, typer.Option(min=1, help="Pixels from tile to tile; none: the preset's, or else the model's.")
]
BFloat16 = Annotated[bool, typer.Option(help="Compute in bfloat16 (autocast).")]
BatchSize = Annotated[int, typer.Option(min=1, help="Tiles computed at once, over scales and photos.")]
Refine = Annotated[str, typer.Option(help="Refiners joined by + (pamr, irn_lite0 ...), local-dir:RUN/model, or none.")]

Images = Annotated[
    Path | None, typer.Option(help="A folder of photos: with --labels, or with a subfolder for each class.")
]
Labels = Annotated[
    Path | None,
    typer.Option(help="Labels of --images: a CSV with the columns file,labels, or COCO's instances (.json)."),
]
VOC = Annotated[Path | None, typer.Option(help="Or a folder in the layout of VOC.")]
CUB = Annotated[Path | None, typer.Option(help="Or a folder in the layout of CUB-200-2011.")]
Split = Annotated[
    str | None, typer.Option("--list", help="Photos of --voc (none: cls_train) or of --cub (none: train).")
]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input and failing files end the command with one line on stderr and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        complain(error)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as stop:
        complain(stop if str(stop) else KeyboardInterrupt("stopped."))
        raise typer.Exit(130) from stop


@contextmanager
def autocast(device: str, bf16: bool) -> Iterator[None]:
    """bfloat16 inside, if it is asked for."""
    import torch

    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16):
        yield


def complain(error: BaseException, about: str = "") -> None:
    """One line on stderr."""
    text = " ".join(str(error).split()) or type(error).__name__
    err.print(f"[bold red]error:[/] {escape(about + text)}", highlight=False, soft_wrap=True)


def load_model(model: str, device: str) -> Any:
    import torch

    import crt

    try:
        target = torch.device(device)
        torch.zeros(1, device=target).cpu()  # nothing comes back from "meta"
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from error
    return crt.create_model(model, pretrained=True).to(target)


def load_refiner(refine: str, network: Any, device: str) -> Any:
    """None for "none"."""
    from crt.refine import create_refiner

    return None if refine == "none" else create_refiner(refine, pretrained=True, model=network).to(device)


def make_extractor(
    network: Any, batch_size: int, scales: str | None, flip: bool | None, stride: int | None = None, preset: str = ""
) -> Any:
    """The ``CAMExtractor`` of a preset ("" is the library's defaults), in which given options replace the preset's."""
    from crt.cam import PRESETS, CAMExtractor

    if preset and preset not in PRESETS:
        raise ValueError(f"--preset {preset}: there are {', '.join(PRESETS)}.")
    given = {"scales": None if scales is None else factors(scales), "flip": flip, "stride": stride}
    settings = {**PRESETS.get(preset, {}), **{name: value for name, value in given.items() if value is not None}}
    return CAMExtractor(network, batch_size=batch_size, **settings)


def labelled_photos(
    images: Path | None,
    labels: Path | None,
    voc: Path | None,
    cub: Path | None,
    split: str | None,
    *,
    class_names: Any = None,
    unusable: list[str] | None = None,
) -> Any:
    """The ``ImageDataset`` that the options name; ``class_names`` and ``unusable`` are for tables and folders."""
    from crt.data import load_dataset

    return load_dataset(
        images=images, labels=labels, voc=voc, cub=cub, split=split, class_names=class_names, unusable=unusable
    )


def check_apart(output: Path, images: Path | None, labels: Path | None) -> None:
    """ValueError if the output lies where each subfolder is a class of photos."""
    if images is not None and labels is None and images.resolve() in (output.resolve(), *output.resolve().parents):
        raise ValueError(f"--out {output} lies in {images}, where a subfolder is a class; choose another folder.")


def factors(text: str, option: str = "--scales") -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected numbers separated by commas, like 0.5,1.") from None


def progress_bar(items: Iterable[Any], total: int) -> Iterable[Any]:
    return track(items, "photos", total=total, console=err, transient=True)
