"""Seed mIoU against photos a second, over ways to look at a photo.

python benchmarks/tradeoff.py --voc VOC2012                     # measures what has no record yet, then draws the plot
python benchmarks/tradeoff.py --voc VOC2012 --settings one_apart --float32
python benchmarks/tradeoff.py --voc VOC2012 --model crt_vit_s16 --settings whole,fast --every 3 --float32
python benchmarks/tradeoff.py                                   # draws docs/tradeoff.png from the records alone

One record a setting, docs/records/tradeoff_NAME.json.  mIoU is given at the setting's own best background threshold on
the list and at the model's default.  The clock runs while CAMs are awaited: reading ahead is in it, evaluation is not.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from _runner import at_best, levels
from _tables import preset_of
from _timing import device_name, wait_for
from cam_throughput import count_tiles, photo_of
from PIL import Image
from rich.progress import track

import crt
from crt.cam import PRESETS, CAMExtractor
from crt.data import VOC_CLASSES, ImageDataset
from crt.evaluate.record import write_record
from crt.masks import load_mask
from crt.metrics import SeedCurve

DOCS = Path(__file__).parents[1] / "docs"


class Setting(NamedTuple):
    """How photos are seen, and what of the model is changed for it."""

    label: str
    extractor: dict[str, Any]
    model: dict[str, Any] = {}  # noqa: RUF012


SETTINGS = {
    "paper": Setting("7 scales", PRESETS["paper"]),
    "balanced": Setting("scales 0.5, 1, 1.5", {"scales": (0.5, 1.0, 1.5), "flip": True}),
    "three_apart": Setting("scales 0.5, 1, 1.5, no overlap", {"scales": (0.5, 1.0, 1.5), "flip": True, "stride": 224}),
    "three_fit": Setting("scales 0.44, 0.88, 1.32, no overlap", {"scales": (0.44, 0.88, 1.32), "stride": 224}),
    "four_fit": Setting(
        "scales 0.44, 0.88, 1.32, 1.76, no overlap, no mirror",
        {"scales": (0.44, 0.88, 1.32, 1.76), "stride": 224, "flip": False},
    ),
    "five_bare": Setting(
        "scales 0.5, 0.75, 1, 1.25, 1.5, no overlap, no mirror",
        {"scales": (0.5, 0.75, 1.0, 1.25, 1.5), "stride": 224, "flip": False},
    ),
    "two": Setting("scales 0.5, 1", {"scales": (0.5, 1.0)}),
    "two_apart": Setting("scales 0.5, 1, no overlap", {"scales": (0.5, 1.0), "stride": 224}),
    "one": Setting("scale 1", {"scales": (1.0,)}),
    "one_apart": Setting("scale 1, no overlap", {"scales": (1.0,), "stride": 224}),
    "wide_apart": Setting("scales 0.5, 1.25, no overlap", {"scales": (0.5, 1.25), "stride": 224}),
    "three_no_flip": Setting("scales 0.5, 1, 1.5, no mirror", {"scales": (0.5, 1.0, 1.5), "flip": False}),
    "one_tile": Setting("whole photo in one tile of 224", {"scales": (1.0,), "max_side": 224}),
    "fast": Setting("tiles at four scales", PRESETS["fast"]),
    "whole": Setting("the photo at once", PRESETS["whole"]),
    "whole_mirror": Setting("the photo at once, with mirror", {**PRESETS["whole"], "flip": True}),
    "whole_two": Setting("the photo at once, scales 1 and 1.5", {**PRESETS["whole"], "scales": (1.0, 1.5)}),
    "one_pass": Setting("7 scales, 1 pass", PRESETS["paper"], {"num_passes": 1}),
}
DEFAULT = "paper,balanced,three_apart,three_fit,four_fit,five_bare,two,two_apart,one_apart,one_tile"


def path_of(name: str, model: str, float32: bool, records: Path) -> Path:
    own = "" if model == "crt_vit_t16" else f"{model.removeprefix('crt_vit_').replace('.', '_')}_"
    return records / f"tradeoff_{own}{name}{'_float32' if float32 else ''}.json"


def results(extractor: CAMExtractor, data: ImageDataset, device: str) -> Iterator[tuple[Any, Any, float]]:
    """Each photo of the list with its CAMs, and the seconds that they were waited for."""
    stream = extractor.stream((Image.open(photo.image), photo.labels) for photo in data)
    for photo in track(list(data), "photos", transient=True):
        begin = time.perf_counter()
        result = next(stream)
        wait_for(device)
        yield photo, result, time.perf_counter() - begin


def measure(name: str, model: str, data: ImageDataset, device: str, float32: bool, batch_size: int) -> dict[str, Any]:
    """The record of one setting."""
    setting = SETTINGS[name]
    if "num_passes" in setting.model and crt.create_model(model, pretrained=True).num_passes < 2:
        raise typer.BadParameter(f"{name}: {model} does not repeat its blocks.")
    network = crt.create_model(model, pretrained=True, **setting.model).to(device)
    extractor = CAMExtractor(network, **setting.extractor, batch_size=batch_size)
    curve, waited = SeedCurve(len(VOC_CLASSES), levels(0.01, 69)), 0.0
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=not float32):
        extractor(photo_of(375, 500).to(device), [[0]])  # warm-up
        for photo, result, seconds in results(extractor, data, device):
            waited += seconds
            curve.update(result.maps.cpu(), result.labels, torch.from_numpy(load_mask(photo.mask)))
    found = at_best(curve)
    return {
        "measure": "seed mIoU and speed",
        "model": model,
        "setting": name,
        "label": setting.label,
        "extractor": setting.extractor,
        "changes": setting.model,
        "tiles": count_tiles(extractor, photo_of(375, 500).to(device)),
        "bf16": not float32,
        "batch_size": batch_size,
        "device": device,
        "gpu": device_name(device),
        "photos": len(data),
        "seconds": waited,
        "photos_per_second": len(data) / waited,
        "threshold_rule": "best on this list",
        "default_threshold": network.seed_threshold,
        "miou_at_default": found["curve"][f"{network.seed_threshold:.3f}"],
        **found,
    }


def plot(records: Path, picture: Path) -> None:
    """The trade-off, a point a record in bfloat16."""
    from matplotlib.figure import Figure

    from crt._files import whole_file

    found = [json.loads(path.read_text()) for path in sorted(records.glob("tradeoff_*.json"))]
    rows = [row for row in found if row["bf16"]]
    if not rows:
        print(f"no records tradeoff_*.json in {records}")
        return
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    speeds = [row["photos_per_second"] for row in rows]
    for row, speed in zip(rows, speeds, strict=True):
        preset = None if row["changes"] else preset_of(row["extractor"])
        axes.plot(speed, 100 * row["miou"], "o", color="C1" if preset else "C0")
        side = "right" if speed**2 > min(speeds) * max(speeds) else "left"  # text stays inside
        style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "ha": side}
        axes.annotate(preset or row["setting"], (speed, 100 * row["miou"]), xytext=(0, 6 if preset else -13), **style)
    axes.set_xscale("log")
    axes.set_xlabel("photos a second")
    axes.set_ylabel("seed mIoU, each at its best threshold")
    axes.margins(0.1)
    axes.grid(alpha=0.3)
    axes.set_title(f"{rows[0]['model']} on {rows[0]['list']} ({rows[0]['photos']} photos), bfloat16", fontsize=9)
    with whole_file(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def main(
    voc: Annotated[Path | None, typer.Option(help="Folder in the VOC layout; none: draw only.")] = None,
    split: Annotated[str, typer.Option("--list", help="Its list.")] = "train_allclass",
    model: Annotated[str, typer.Option(help="A name of `crt models --pretrained`.")] = "crt_vit_t16",
    settings: Annotated[str, typer.Option(help=f"Of {', '.join(SETTINGS)}; separated by commas.")] = DEFAULT,
    every: Annotated[int, typer.Option(help="Measure every n-th photo of the list.")] = 1,
    float32: Annotated[bool, typer.Option("--float32", help="In place of bfloat16; records of their own.")] = False,
    batch_size: int = 16,
    device: str = "cpu",
    records: Annotated[Path, typer.Option(help="Folder of the records.")] = DOCS / "records",
    picture: Annotated[Path, typer.Option(help="The plot.")] = DOCS / "tradeoff.png",
) -> None:
    names = settings.split(",") if voc is not None else []
    if unknown := [name for name in names if name not in SETTINGS]:
        raise typer.BadParameter(f"unknown settings {unknown}; there are {', '.join(SETTINGS)}.")
    for name in names:
        file = path_of(name, model, float32, records)
        if file.exists():
            print(f"{file} is there")
            continue
        data = ImageDataset.from_voc(voc, split, masks=True)
        data = ImageDataset(data.samples[::every], data.class_names)
        row = {
            "root": voc.name,
            "list": split,
            "every": every,
            **measure(name, model, data, device, float32, batch_size),
        }
        write_record(file, **row)
        print(
            f"{name}: mIoU {100 * row['miou']:.2f} at {row['threshold']:.2f} (best), "
            f"{100 * row['miou_at_default']:.2f} at {row['default_threshold']:.2f} (default), "
            f"{row['photos_per_second']:.2f} photos/s, {row['tiles']} tiles"
        )
    plot(records, picture)


if __name__ == "__main__":
    typer.run(main)
