"""The ``crt`` command.  Every verb is one call into the library; bad input ends with one line and exit code 2."""

import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import track
from rich.table import Table

app = typer.Typer(
    help="Image-level labels in, pixel masks out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
evaluate = typer.Typer(help="Measure.", no_args_is_help=True)
app.add_typer(evaluate, name="eval")
out, err = Console(), Console(stderr=True)

Scales = Annotated[str, typer.Option(help="Factors at which photos are seen, separated by commas.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")]
Model = Annotated[str, typer.Option(help="A name of `crt models`, hf-hub:ORG/NAME or local-dir:PATH.")]
Flip = Annotated[bool, typer.Option(help="Add the map of the mirrored photo.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Tiles computed at once: the cap on memory.")]


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Bad input and failing files end the command with one line on stderr and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        err.print(f"[bold red]error:[/] {_one_line(error)}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.replace("[", r"\[")


def _load(model: str, device: str) -> Any:
    import torch

    import crt

    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from error
    return crt.create_model(model, pretrained=True).to(target)


def _factors(scales: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in scales.split(","))
    except ValueError:
        raise ValueError(f"--scales {scales!r}: expected numbers separated by commas, for example 0.5,1,1.5.") from None


@app.callback()
def main(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the library logs.")] = False) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(message)s", handlers=[RichHandler(console=err)]
    )


@app.command()
def models(
    filter: Annotated[str, typer.Argument(help="Show only names that hold this text or match this pattern.")] = "",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only those with trained weights.")] = False,
) -> None:
    """List the models."""
    import crt

    table = Table("model", "trained weights")
    tagged = crt.list_models(pretrained=True)
    for name in crt.list_models(filter):
        tags = [full.split(".", 1)[1] for full in tagged if full.split(".", 1)[0] == name]
        if tags or not pretrained:
            table.add_row(name, ", ".join(tags) or "-")
    out.print(table)


@app.command()
def cam(
    photos: Annotated[list[Path], typer.Argument(help="Photos.", metavar="PHOTO...")],
    output: Annotated[Path, typer.Option("--out", help="Folder for the results; made if need be.")],
    labels: Annotated[
        str | None, typer.Option(help="Classes in the photos, separated by commas; without it they are predicted.")
    ] = None,
    model: Model = "crt_vit_t16",
    scales: Scales = "0.5,1,1.5",
    flip: Flip = True,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Background score of the mask; none: the model's.")
    ] = None,
    device: Device = "cpu",
    batch_size: BatchSize = 16,
) -> None:
    """Write NAME.overlay.png, NAME.mask.png (VOC palette) and NAME.cam.safetensors (maps) for each photo."""
    with _one_line_errors():
        from crt.cam import CAMExtractor

        names = _names(labels)
        targets = _targets(photos, output)
        network = _load(model, device)
        network.multi_hot(names, 1)  # unknown names fail before any work
        extractor = CAMExtractor(network, scales=_factors(scales), flip=flip, batch_size=batch_size)
        output.mkdir(parents=True, exist_ok=True)
        failed = 0
        for photo, target in track(list(zip(photos, targets, strict=True)), "photos", console=err, transient=True):
            try:
                (result,) = extractor(_open(photo), names)
                _write(result, target, threshold)
            except (ValueError, TypeError, OSError) as error:
                failed += 1
                err.print(f"[bold red]error:[/] {photo}: {_one_line(error)}", highlight=False, soft_wrap=True)
            else:
                out.print(
                    f"{photo}: {', '.join(result.names) or 'no class'} -> {target}.*", highlight=False, soft_wrap=True
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
    from crt._files import whole_file
    from crt.data import save_mask

    with whole_file(target.with_name(target.name + ".mask.png")) as temporary:
        save_mask(result.mask(threshold).cpu(), temporary)
    with whole_file(target.with_name(target.name + ".overlay.png")) as temporary:
        result.overlay().save(temporary, format="PNG")
    result.save(target.with_name(target.name + ".cam.safetensors"))


@evaluate.command("cam")
def eval_cam(
    root: Annotated[Path, typer.Option(help="Folder in the VOC layout.")],
    split: Annotated[str, typer.Option("--list", help="Name of a list in ImageSets/Segmentation.")],
    model: Model = "crt_vit_t16",
    scales: Scales = "0.5,1,1.5",
    flip: Flip = True,
    thresholds: Annotated[
        str, typer.Option(help="Background scores: FIRST:LAST:STEP, or one number to measure at that alone.")
    ] = "0.02:0.60:0.02",
    bf16: Annotated[bool, typer.Option(help="Compute in bfloat16 (autocast).")] = False,
    device: Device = "cpu",
    batch_size: BatchSize = 16,
    record: Annotated[Path | None, typer.Option("--json", help="Write the record here.")] = None,
) -> None:
    """Seed mIoU on a list, with the photos' own labels, at the best background threshold."""
    with _one_line_errors():
        import torch

        from crt._files import whole_file
        from crt.cam import CAMExtractor
        from crt.data import VOC_CLASSES, VOCSegmentation
        from crt.metrics import make_record, seed_curve

        data = VOCSegmentation(root, split)
        extractor = CAMExtractor(_load(model, device), scales=_factors(scales), flip=flip, batch_size=batch_size)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16):
            curve = seed_curve(extractor, data, _thresholds(thresholds), progress=_progress)
        threshold, best = curve.best()
        out.print(_class_table(curve, VOC_CLASSES))
        out.print(
            f"seed mIoU {100 * best:.2f} on {split} ({len(data)} photos, their own labels, masks' resolution), "
            f"background threshold {threshold:.3f} (best on this list)",
            highlight=False,
            soft_wrap=True,
        )
        if record is not None:
            report = make_record(
                measure="seed mIoU",
                model=model,
                root=root.name,
                list=split,
                photos=len(data),
                scales=extractor.scales,
                flip=flip,
                bf16=bf16,
                threshold_rule="best on this list",
                threshold=threshold,
                miou=best,
                curve={
                    f"{t:.3f}": miou
                    for t, miou in zip(curve.thresholds.tolist(), curve.compute().tolist(), strict=True)
                },
            )
            with whole_file(record) as temporary:
                temporary.write_text(json.dumps(report, indent=2) + "\n")


def _progress(items: Iterable[Any], total: int) -> Iterable[Any]:
    return track(items, "photos", total=total, console=err, transient=True)


def _thresholds(text: str) -> list[float]:
    """ "0.1:0.4:0.1" or "0.15" -> the numbers."""
    try:
        numbers = [float(part) for part in text.split(":")]
        if len(numbers) == 1:
            return numbers
        first, last, step = numbers
        count = int((last - first) / step + 1.5)
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"--thresholds {text!r}: expected one number or FIRST:LAST:STEP, for example 0.02:0.6:0.02."
        ) from None
    return [round(first + step * i, 6) for i in range(count)]


def _class_table(curve: Any, names: Sequence[str]) -> Table:
    from crt.metrics import iou_per_class

    place = int(curve.compute().argmax())
    table = Table("class", "IoU")
    for name, iou in zip(["background", *names], iou_per_class(curve.confusion()[place]).tolist(), strict=True):
        table.add_row(name, "-" if iou != iou else f"{100 * iou:.1f}")
    return table
