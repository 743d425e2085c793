"""Seed mIoU on several VOC lists at once: photos that are in more than one of them are looked at once.

python benchmarks/seeds.py --voc VOC2012 --lists train,train_allclass --suffix "" --records docs/records

The records are those of `crt eval cam --json` on each list.
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from rich.progress import track

import crt
from crt.cam import CAMExtractor
from crt.data import VOC_CLASSES, VOCSegmentation, load_mask
from crt.metrics import SeedCurve, make_record

THRESHOLDS = [round(0.02 + 0.01 * i, 2) for i in range(69)]


def main(
    voc: Annotated[Path, typer.Option(help="Folder in the VOC layout.")],
    lists: Annotated[str, typer.Option(help="Its lists, separated by commas.")],
    records: Annotated[Path, typer.Option(help="Folder for the records.")],
    suffix: Annotated[str, typer.Option(help="Ending of the records' names, before .json.")] = "",
    model: str = "crt_vit_t16.voc9k",
    folder: Annotated[Path | None, typer.Option(help="Weights to measure in the model's place.")] = None,
    scales: str = "0.5,1,1.5",
) -> None:
    names = lists.split(",")
    data = {name: VOCSegmentation(voc, name) for name in names}
    members = {name: set(data[name].names) for name in names}
    photos = {photo.name: photo for name in names for photo in data[name]}
    curves = {name: SeedCurve(len(VOC_CLASSES), THRESHOLDS) for name in names}
    network = crt.create_model(f"local-dir:{folder}" if folder else model, pretrained=True)
    extractor = CAMExtractor(network, scales=tuple(float(scale) for scale in scales.split(",")))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = extractor.stream((Image.open(photo.image), photo.labels) for photo in photos.values())
        for photo, result in track(zip(photos.values(), results, strict=True), "photos", total=len(photos)):
            truth = torch.from_numpy(load_mask(photo.mask))
            for name in names:
                if photo.name in members[name]:
                    curves[name].update(result.maps, result.labels, truth)
    for name, curve in curves.items():
        threshold, best = curve.best()
        report = make_record(
            measure="seed mIoU",
            model=model,
            root=voc.name,
            list=name,
            photos=len(data[name]),
            scales=extractor.scales,
            flip=True,
            bf16=True,
            threshold_rule="best on this list",
            threshold=round(threshold, 6),
            miou=best,
            curve={f"{t:.3f}": v for t, v in zip(THRESHOLDS, curve.compute().view(-1).tolist(), strict=True)},
        )
        file = records / f"seed_{model.removeprefix('crt_vit_').replace('.', '_')}_{name}{suffix}.json"
        file.write_text(json.dumps(report, indent=2) + "\n")
        print(f"{name}: {100 * best:.2f} at {threshold:.2f}")


if __name__ == "__main__":
    typer.run(main)
