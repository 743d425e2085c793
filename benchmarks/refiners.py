"""Pseudo masks against masks: mIoU of refined maps over background thresholds, seconds a photo, peak memory.

python benchmarks/refiners.py --voc VOC2012 --list train --refine pamr --json docs/records/refined_pamr_train.json

One refiner a run, so that the peak is its own; "none" measures the seeds themselves.
"""

import json
import resource
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from rich.progress import track

import crt
from crt.cam import CAMExtractor, normalise
from crt.data import VOC_CLASSES, VOCSegmentation, load_mask
from crt.metrics import SeedCurve, make_record

THRESHOLDS = [round(0.02 + 0.02 * i, 2) for i in range(40)]


def main(
    voc: Annotated[Path, typer.Option(help="Folder in the VOC layout.")],
    split: Annotated[str, typer.Option("--list", help="Its list.")],
    refine: Annotated[str, typer.Option(help="A refiner, several joined by +, or none.")],
    record: Annotated[Path, typer.Option("--json", help="Where the record goes.")],
    model: str = "crt_vit_t16",
    scales: str = "0.5,1,1.5",
) -> None:
    data, factors = VOCSegmentation(voc, split), tuple(float(scale) for scale in scales.split(","))
    refiner = None if refine == "none" else crt.create_refiner(refine)
    extractor = CAMExtractor(crt.create_model(model, pretrained=True), scales=factors)
    curve, refining, start = SeedCurve(len(VOC_CLASSES), THRESHOLDS), 0.0, time.perf_counter()
    photos = [data[i] for i in range(len(data))]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        results = extractor.stream((Image.open(photo.image), photo.labels) for photo in photos)
        for photo, result in track(zip(photos, results, strict=True), split, total=len(photos)):
            maps, begun = result.maps, time.perf_counter()
            if refiner is not None:
                maps = normalise(refiner(result.pixels[None], maps[None])[0])
            refining += time.perf_counter() - begun
            curve.update(maps, result.labels, torch.from_numpy(load_mask(photo.mask)))
    threshold, best = curve.best()
    report = make_record(
        measure="refined mIoU",
        model=model,
        refiner=refine,
        root=voc.name,
        list=split,
        photos=len(photos),
        scales=factors,
        flip=True,
        bf16=True,
        threshold=round(threshold, 6),
        threshold_rule="best on this list",
        miou=best,
        curve={f"{t:.3f}": v for t, v in zip(THRESHOLDS, curve.compute().view(-1).tolist(), strict=True)},
        seconds_refining=refining / len(photos),
        seconds_in_all=(time.perf_counter() - start) / len(photos),
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    record.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{refine} on {split}: {100 * best:.2f} at {threshold:.2f}; {refining / len(photos):.2f} s a photo")


if __name__ == "__main__":
    typer.run(main)
