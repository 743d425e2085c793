"""``crt eval``: measuring."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from crt.cli.common import (
    BatchSize,
    Device,
    Flip,
    Model,
    Scales,
    factors,
    load_model,
    one_line_errors,
    out,
    progress_bar,
)

app = typer.Typer(help="Measure.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure."""


@app.command("cam")
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
    with one_line_errors():
        import torch

        from crt._files import whole_file
        from crt.cam import CAMExtractor
        from crt.data import VOC_CLASSES, VOCSegmentation
        from crt.metrics import make_record, seed_curve

        if record is not None and not record.parent.is_dir():
            raise FileNotFoundError(f"--json {record}: there is no folder {record.parent}.")
        data = VOCSegmentation(root, split)
        extractor = CAMExtractor(load_model(model, device), scales=factors(scales), flip=flip, batch_size=batch_size)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16):
            curve = seed_curve(extractor, data, _thresholds(thresholds), progress=progress_bar)
        threshold, best = curve.best()
        rule = " (best on this list)" if len(curve.thresholds) > 1 else ""
        out.print(_class_table(curve, VOC_CLASSES))
        out.print(
            f"seed mIoU {100 * best:.2f} on {split} ({len(data)} photos, their own labels, masks' resolution), "
            f"background threshold {threshold:.3f}{rule}",
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
                threshold_rule="best on this list" if len(curve.thresholds) > 1 else "given",
                threshold=round(threshold, 6),
                miou=best,
                curve={
                    f"{t:.3f}": miou
                    for t, miou in zip(curve.thresholds.tolist(), curve.compute().tolist(), strict=True)
                },
            )
            with whole_file(record) as temporary:
                temporary.write_text(json.dumps(report, indent=2) + "\n")


def _thresholds(text: str) -> list[float]:
    """ "0.1:0.4:0.1" or "0.15" -> the numbers."""
    try:
        numbers = [float(part) for part in text.split(":")]
        if len(numbers) == 1:
            return numbers
        first, last, step = numbers
        count = int((last - first) / step + 1.5)
    except (ValueError, ZeroDivisionError, OverflowError):
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
