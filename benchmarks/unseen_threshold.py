"""The background threshold that suits photos a model has not seen, chosen on photos kept out of its last training.

python benchmarks/unseen_threshold.py --voc VOC2012 --masks masks2 --start run0/model --out runs/unseen

Weights that were trained on pseudo masks of the photos of `train` are surer of these photos than of others, so the best
threshold on them is too high for others.  Here the training on pseudo masks is done again without those photos, from
the weights of the first step, which knew their labels alone; the threshold best on them is what `config.json` of the
bundled weights says (`seed_threshold`).
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import torch
import typer
from _runner import RECORDS, VOC, at_best, levels, show, trained

from crt.cam import CAMExtractor
from crt.data import ImageDataset
from crt.evaluate import measure_seeds
from crt.evaluate.record import write_record
from crt.evaluate.seeds import seeds_of_model
from crt.train import build_branches, make_recipe


def main(
    voc: VOC,
    masks: Annotated[Path, typer.Option(help="Pseudo masks of the training photos (`crt pseudo`).")],
    start: Annotated[Path, typer.Option(help="Weights of the first step.")],
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    kept_out: Annotated[str, typer.Option("--list", help="Photos to keep out, and to measure.")] = "train",
    epochs: int = 2,
    scales: str = "0.5,1,1.5",
) -> None:
    data, photos = ImageDataset.from_voc(voc, kept_out, masks=True), ImageDataset.from_voc(voc, "cls_train")
    apart = {sample.name for sample in data}
    known = [photo for photo in photos if photo.name not in apart]
    recipe = make_recipe("t16-voc9k-masks", [f"epochs={epochs}"])
    start_model = build_branches(recipe, photos.class_names, start=start)
    model = trained(start_model, ImageDataset(known, photos.class_names).with_masks(masks), out, recipe)
    extractor = CAMExtractor(model, scales=tuple(float(scale) for scale in scales.split(",")))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        curve = measure_seeds(seeds_of_model(extractor, data), data, levels(0.01, 69), progress=show).curve
    found = at_best(curve)
    write_record(
        RECORDS / "unseen_threshold.json",
        measure="threshold of unseen photos",
        recipe=dataclasses.asdict(recipe),
        training_photos=len(known),
        seed=0,
        root=voc.name,
        list=kept_out,
        photos=len(data),
        scales=extractor.scales,
        flip=True,
        bf16=True,
        threshold_rule="best on this list, whose photos were kept out of the training on pseudo masks",
        **found,
    )
    print(f"{kept_out}: {100 * found['miou']:.2f} at {found['threshold']:.2f}")


if __name__ == "__main__":
    typer.run(main)
