"""Localization on CUB: the bundled weights, and the ablation over passes and CNN branch.

python benchmarks/wsol.py --cub CUB_200_2011 --vit VIT.safetensors --cnn CNN.safetensors --out runs --rows bundled

A tenth of the training photos of each class is held back; its boxes choose the thresholds, and how maps are made of the
bundled weights, and nothing else.  Boxes of test photos are looked at once a row, after the last epoch.  Each row
goes to docs/records/; started again after it was stopped, a run goes on where it was.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from _runner import CNN, CUB, RECORDS, ViT, is_done, show, trained

import crt
from crt.cam import CAMExtractor
from crt.data import ImageDataset
from crt.evaluate import measure_boxes
from crt.evaluate.boxes import BoxReport
from crt.evaluate.record import write_record
from crt.models import CRT
from crt.train import build_branches, make_recipe
from crt.train.recipe import CAMRecipe

THRESHOLDS = [round(0.01 * i, 2) for i in range(100)]
SQUARE = 224  # pixels a side: one tile


class Row(NamedTuple):
    recipe: CAMRecipe
    refiner: str = "none"


def short(passes: int, cnn: bool) -> CAMRecipe:
    """A row of the ablation: half of the bundled run's epochs."""
    recipe = make_recipe("t16-cub50", ["epochs=4"])
    without = {} if cnn else {"cnn": None, "coupling": 0.0}
    return dataclasses.replace(recipe, num_passes=passes, **without)


ROWS = {f"n{n}_{'cnn' if cnn else 'alone'}": Row(short(n, cnn)) for cnn in (False, True) for n in (0, 1, 3)}
ROWS["bundled"] = Row(make_recipe("t16-cub50"))
ROWS["bundled_pamr"] = ROWS["bundled"]._replace(refiner="pamr")  # of the same run


def split(cub: Path) -> tuple[ImageDataset, ImageDataset]:
    """The training photos without every tenth of each class, and these with their boxes."""
    held, photos = ImageDataset.from_cub(cub, "train"), ImageDataset.from_cub(cub, "train")
    seen = [0] * len(held.class_names)
    back = set()
    for photo in held.samples:
        seen[photo.labels[0]] += 1
        if seen[photo.labels[0]] % 10 == 0:
            back.add(photo.name)
    held.samples = [photo for photo in held.samples if photo.name in back]
    return ImageDataset([p for p in photos.samples if p.name not in back], photos.class_names), held


def trained_on(photos: ImageDataset, recipe: CAMRecipe, vit: Path, cnn: Path, out: Path) -> CRT:
    """The transformer after the recipe; a run that is done is left as it is."""
    if not (out / "model").exists():
        start = build_branches(recipe, photos.class_names, backbone_checkpoint=vit, cnn_checkpoint=cnn)
        trained(start, photos, out, recipe)
    return crt.create_model(f"local-dir:{out / 'model'}", pretrained=True)


def measured(model: CRT, data: ImageDataset, threshold: float, refiner: str) -> BoxReport:
    """Of photos squeezed into a square, as usual in this task, with their mirror images."""
    how: dict[str, Any] = {"thresholds": THRESHOLDS, "square": SQUARE, "progress": show}
    how["refiner"] = None if refiner == "none" else crt.create_refiner(refiner, pretrained=True, model=model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return measure_boxes(CAMExtractor(model), data, threshold, **how)


def main(
    cub: CUB,
    vit: ViT,
    cnn: CNN,
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    rows: Annotated[str, typer.Option(help="Rows to do.")] = ",".join(ROWS),
) -> None:
    (photos, held), test = split(cub), ImageDataset.from_cub(cub, "test")
    for name in rows.split(","):
        record, row = RECORDS / f"wsol_{name}.json", ROWS[name]
        if is_done(record):
            continue
        run = name.removesuffix(f"_{row.refiner}")
        model = trained_on(photos, row.recipe, vit, cnn, out / run)
        chosen = measured(model, held, 0.5, row.refiner).curve.compute()
        place = int(chosen["box_acc"][:, 1].argmax())  # at IoU 0.5
        threshold = THRESHOLDS[place]
        found = measured(model, test, threshold, row.refiner)
        scores, curve = found.localization.compute(), found.curve.compute()
        write_record(
            record,
            measure="localisation",
            run=run,
            recipe=dataclasses.asdict(row.recipe),
            refiner=row.refiner,
            seed=0,
            training_photos=len(photos),
            list="test",
            photos=len(test),
            classes=len(test.class_names),
            resolution=f"{SQUARE} x {SQUARE}",
            flip=True,
            bf16=True,
            threshold=threshold,
            threshold_rule=f"best on {len(held)} training photos held back",
            gt_known_held=float(chosen["box_acc"][place, 1]),
            **{key: float(value) for key, value in scores.items()},
            max_box_acc=float(curve["max_box_acc"][1]),
            max_box_acc_v2=float(curve["max_box_acc_v2"]),
        )
        print(name, {key: round(100 * float(value), 2) for key, value in scores.items()}, f"threshold {threshold}")


if __name__ == "__main__":
    typer.run(main)
