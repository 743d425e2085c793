"""The ablation of CRT: passes, CNN branch, coupling and tiling, every row on the same photos for the same epochs.

python benchmarks/ablation.py --voc VOC2012 --vit VIT.safetensors --cnn CNN.safetensors --out runs

Each row is trained with `crt.train` (labels only), measured on three lists and written to docs/records/.  Started again
after it was stopped, it goes on where it was.  Rows with tiling see photos at scales 0.5 and 1; the row without sees
each photo squeezed into one tile.  Both add the mirror image.  Average precision is of the photo in one tile.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from PIL import Image
from rich.progress import track

from crt.cam import CAMExtractor
from crt.data import VOC_CLASSES, LabelledPhotos, VOCSegmentation, load_mask
from crt.metrics import MultilabelAP, SeedCurve, make_record
from crt.models import CRT
from crt.train import CAMRecipe, build_branches, make_recipe, train_cam

RECORDS = Path(__file__).parents[1] / "docs" / "records"
LISTS = ("train", "train_allclass", "val_animals")
SCALES = (0.5, 1.0)
THRESHOLDS = [round(0.02 + 0.01 * i, 2) for i in range(60)]


class Row(NamedTuple):
    passes: int
    cnn: bool
    coupling: float
    tiling: bool

    @property
    def name(self) -> str:
        return f"ablation_n{self.passes}_{'cnn' if self.cnn else 'alone'}_{self.coupling:g}"


ROWS = [Row(0, False, 0, False), Row(3, False, 0, True), Row(0, True, 0.1, True), Row(1, True, 0.1, True)]
ROWS.append(Row(3, True, 0.1, True))


def recipe_of(row: Row, epochs: int) -> CAMRecipe:
    """The preset of the bundled weights' first stage, with class attention as in the paper."""
    base = make_recipe("t16-voc9k", [f"epochs={epochs}", "attention_power=1.0"])
    cnn = base.cnn if row.cnn else None
    return dataclasses.replace(base, num_passes=row.passes, cnn=cnn, coupling=float(row.coupling))


def seeds(model: CRT, data: VOCSegmentation, tiling: bool) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Maps of a list's photos and their classes."""
    photos = list(data)
    if tiling:
        results = CAMExtractor(model, scales=SCALES).stream((Image.open(p.image), p.labels) for p in photos)
        yield from ((result.maps, result.labels) for result in results)
        return
    for photo in photos:
        image = Image.open(photo.image).convert("RGB")
        size = (image.height, image.width)
        (result,) = CAMExtractor(model)(image.resize((model.tile, model.tile)), [photo.labels], size=size)
        yield result.maps, result.labels


def measure(model: CRT, root: Path, tiling: bool) -> dict[str, SeedCurve]:
    """The curve of each list; photos that are in two lists are looked at once."""
    curves = {name: SeedCurve(len(VOC_CLASSES), THRESHOLDS) for name in LISTS}
    members = {name: set(VOCSegmentation(root, name).names) for name in LISTS}
    for split in ("train", "val_animals"):  # train_allclass is a part of train
        data = VOCSegmentation(root, split)
        found = zip(data, seeds(model, data, tiling), strict=True)
        for photo, (maps, labels) in track(found, split, total=len(data)):
            truth = torch.from_numpy(load_mask(photo.mask))
            for name, names in members.items():
                if photo.name in names:
                    curves[name].update(maps, labels, truth)
    return curves


def average_precision(model: CRT, root: Path) -> float:
    """Of `val_animals`, over the classes that occur there."""
    metric = MultilabelAP()
    for photo in VOCSegmentation(root, "val_animals"):
        image = Image.open(photo.image).convert("RGB").resize((model.tile, model.tile))
        with torch.no_grad():
            logits = model(model.normalised(model.photos(image)[0])[None])
        metric.update(logits, model.multi_hot([photo.labels], 1))
    return float(metric.compute()["map"])


def main(
    voc: Annotated[Path, typer.Option(help="Folder in the VOC layout.")],
    vit: Annotated[Path, typer.Option(help="ImageNet weights of the ViT.")],
    cnn: Annotated[Path, typer.Option(help="ImageNet weights of the CNN.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    split: Annotated[str, typer.Option("--list", help="Training list.")] = "cls_train",
    epochs: int = 2,
    rows: Annotated[str, typer.Option(help="Rows to do, from 0.")] = "0,1,2,3,4",
) -> None:
    photos = LabelledPhotos.from_voc(voc, split)
    for row in (ROWS[int(i)] for i in rows.split(",")):
        record, recipe = RECORDS / f"{row.name}.json", recipe_of(row, epochs)
        if record.exists():
            print(f"{record} is there")
            continue
        model = build_branches(recipe, photos.class_names, backbone_checkpoint=vit, cnn_checkpoint=cnn)
        trained = train_cam(
            model,
            photos,
            out / row.name,
            recipe,
            precision="bf16",
            compile=True,
            progress=lambda steps, first, total: track(steps, "steps", completed=first, total=total),
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            curves, ap = measure(trained, voc, row.tiling), average_precision(trained, voc)
        chosen = curves["train"].best()[0]
        place = [f"{t:.3f}" for t in THRESHOLDS].index(f"{chosen:.3f}")
        report = make_record(
            measure="ablation",
            **row._asdict(),
            recipe=dataclasses.asdict(recipe),
            seed=0,
            training_list=split,
            scales=SCALES if row.tiling else "one tile",
            flip=True,
            bf16=True,
            threshold=round(chosen, 3),
            threshold_rule="best on train",
            miou={name: float(curve.compute().view(-1)[place]) for name, curve in curves.items()},
            map_val_animals=ap,
        )
        record.write_text(json.dumps(report, indent=2) + "\n")
        print(row, report["miou"], ap)


if __name__ == "__main__":
    typer.run(main)
