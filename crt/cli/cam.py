"""``crt cam``: photos to maps, masks and overlays."""

import io
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import track

from crt.cli.common import (
    BatchSize,
    Device,
    Flip,
    Model,
    Preset,
    Scales,
    Stride,
    complain,
    err,
    load_model,
    make_extractor,
    one_line_errors,
    out,
)


def cam(
    photos: Annotated[list[Path], typer.Argument(help="Photos.", metavar="PHOTO...")],
    output: Annotated[Path, typer.Option("--out", help="Folder for the results; made if need be.")],
    labels: Annotated[
        str | None, typer.Option(help="Classes in the photos, separated by commas; without it they are predicted.")
    ] = None,
    model: Model = "crt_vit_t16",
    preset: Preset = "fast",
    scales: Scales = None,
    flip: Flip = None,
    stride: Stride = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Background score of the mask; none: the model's.")
    ] = None,
    device: Device = "cpu",
    batch_size: BatchSize = 16,
) -> None:
    """Write NAME.overlay.png, NAME.mask.png (VOC palette) and NAME.cam.safetensors (maps) for each photo."""
    from crt.labels import to_multi_hot

    with one_line_errors():
        names: Any = _names(labels)
        targets = _targets(photos, output)
        network = load_model(model, device)
        if names is not None and network.class_names is None:
            names = [int(name) if name.isdecimal() else name for name in names]
        to_multi_hot(names, 1, network.num_classes, network.class_names)  # unknown names fail before any work
        extractor = make_extractor(network, batch_size, scales, flip, stride, preset)
        output.mkdir(parents=True, exist_ok=True)
        failed = 0
        for photo, target in track(list(zip(photos, targets, strict=True)), "photos", console=err, transient=True):
            try:
                (result,) = extractor(_open(photo), names)
                _write(result, target, threshold)
            except (ValueError, TypeError, OSError) as error:
                failed += 1
                complain(error, f"{photo}: ")
            else:
                out.print(
                    escape(f"{photo}: {', '.join(result.names) or 'no class'} -> {target}.*"),
                    highlight=False,
                    soft_wrap=True,
                )
        if failed:
            raise typer.Exit(2)


def _names(labels: str | None) -> list[str] | None:
    if labels is None:
        return None
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if not names:
        raise ValueError(f"--labels {labels!r} names no class; leave it out to have the classes predicted.")
    return names


def _targets(photos: list[Path], output: Path) -> list[Path]:
    """Where each photo's results go: plain names inside ``output``, all different."""
    targets: dict[Path, Path] = {}
    for photo in photos:
        if not photo.is_file():
            raise FileNotFoundError(f"there is no photo at {photo}.")
        stem = re.sub(r"[^\w.\- ]", "_", photo.stem).lstrip(".") or "photo"
        target = output / stem
        if target in targets:
            raise ValueError(
                f"{targets[target]} and {photo} would both be written to {target}.*; run them into different folders."
            )
        targets[target] = photo
    return list(targets)


def _open(photo: Path) -> Any:
    from PIL import Image

    try:
        return Image.open(io.BytesIO(photo.read_bytes()))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"this is no picture that Pillow can read ({type(error).__name__}).") from error


def _write(result: Any, target: Path, threshold: float | None) -> None:
    import torch

    from crt._files import whole_file
    from crt.data import save_mask

    with whole_file(target.with_name(target.name + ".mask.png")) as temporary:
        mask = result.mask(threshold).cpu()
        save_mask(mask, temporary, wide=mask.dtype != torch.uint8)
    with whole_file(target.with_name(target.name + ".overlay.png")) as temporary:
        result.overlay().save(temporary, format="PNG")
    result.save(target.with_name(target.name + ".cam.safetensors"))
