"""What each part of the segmentation stage gives: one short run for each, from the same weights and pseudo masks.

python benchmarks/segment_stage.py --voc VOC2012 --masks masks --start run/model --out runs

``--masks`` holds masks of (part of) ``cls_train``, from ``crt pseudo --threshold LOW,HIGH``.  The network never sees
labels; its masks of ``--list`` are measured without them.  One record a row.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from _runner import RECORDS, VOC, Again, is_done, save, show, show_steps

from crt.data import ImageDataset
from crt.evaluate import measure_segmentation
from crt.train import build_segmenter, make_recipe, train_segment

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "recipe": ("the recipe `segment`", {}),
    "clamp": ("with WeakTr's clamp on noisy pixels", {"clamp_from": 1.2}),
    "no_ema": ("the last weights, not their moving average", {"ema": 0.0}),
    "no_jitter": ("colors as they are", {"jitter": 0.0}),
    "one_scale": ("crops of one scale", {"area": (1.0, 1.0)}),
}


def main(
    voc: VOC,
    masks: Annotated[Path, typer.Option(help="Pseudo masks.")],
    start: Annotated[Path, typer.Option(help="Folder of the weights that each run starts from.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    rows: Annotated[str, typer.Option(help="Rows, separated by commas.")] = ",".join(ROWS),
    list_: Annotated[str, typer.Option("--list", help="The list that is measured.")] = "train_allclass",
    photos: Annotated[int, typer.Option(help="Photos to train on, the first that have a mask.")] = 2000,
    epochs: int = 1,
    crop: int = 224,
    records: Annotated[Path, typer.Option(help="Folder for the records.")] = RECORDS,
    again: Again = False,
) -> None:
    every = ImageDataset.from_voc(voc, "cls_train")
    chosen = [sample for sample in every if (masks / f"{sample.name}.png").exists()][:photos]
    dataset = ImageDataset(chosen, every.class_names).with_masks(masks)
    measured = ImageDataset.from_voc(voc, list_, masks=True)
    for name in rows.split(","):
        path, (title, changes) = records / f"segment_stage_{name}.json", ROWS[name]
        if is_done(path, again=again):
            continue
        recipe = make_recipe("segment", {"epochs": epochs, "crop": crop, "warmup": 20, "ema": 0.99, **changes})
        start_model = build_segmenter(recipe, dataset.class_names, start=start)
        segment = train_segment(start_model, dataset, out / name, recipe, progress=show_steps).segment
        report = measure_segmentation(lambda image, segment=segment: segment(image)[0], measured, progress=show)
        save(
            path,
            "segmentation stage",
            row=name,
            title=title,
            start=start.name,
            photos_trained=len(dataset),
            list=list_,
            photos=len(measured),
            threshold_rule="none: the likeliest class",
            recipe=dataclasses.asdict(recipe),
            miou=round(float(report.masks.compute()["miou"]), 6),
            boundary_iou=round(float(report.boundaries.compute()["miou"]), 6),
        )


if __name__ == "__main__":
    typer.run(main)
