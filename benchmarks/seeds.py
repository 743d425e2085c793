"""Seed mIoU on several VOC lists at once: photos that are in more than one of them are looked at once.

python benchmarks/seeds.py --voc VOC2012 --lists train,train_allclass --suffix "" --records docs/records

The records are those of `crt eval cam --json` on each list.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from _runner import VOC, Curves, Lists, at_best, levels

import crt
from crt.cam import PRESETS, CAMExtractor
from crt.evaluate.record import seen_by, write_record
from crt.evaluate.seeds import seeds_of_model


def main(
    voc: VOC,
    lists: Annotated[str, typer.Option(help="Its lists, separated by commas.")],
    records: Annotated[Path, typer.Option(help="Folder for the records.")],
    suffix: Annotated[str, typer.Option(help="Ending of the records' names, before .json.")] = "",
    model: str = "crt_vit_t16.voc9k",
    folder: Annotated[Path | None, typer.Option(help="Weights to measure in the model's place.")] = None,
    preset: str = "fast",
) -> None:
    curves = Curves(Lists(voc, lists.split(",")), levels(0.01, 69))
    network = crt.create_model(f"local-dir:{folder}" if folder else model, pretrained=True)
    extractor = CAMExtractor(network, **PRESETS[preset])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        curves.add_all(seeds_of_model(extractor, curves.lists.photos))
    for name, curve in curves.of.items():
        found = at_best(curve)
        write_record(
            records / f"seed_{model.removeprefix('crt_vit_').replace('.', '_')}_{name}{suffix}.json",
            measure="seed mIoU",
            model=model,
            root=voc.name,
            list=name,
            photos=len(curves.lists.data[name]),
            preset=preset,
            **seen_by(extractor, bf16=True),
            threshold_rule="best on this list",
            **found,
        )
        print(f"{name}: {100 * found['miou']:.2f} at {found['threshold']:.2f}")


if __name__ == "__main__":
    typer.run(main)
