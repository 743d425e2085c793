"""The ablation of CRT: passes, CNN branch, coupling and tiling, every row on the same photos for the same epochs.

python benchmarks/ablation.py --voc VOC2012 --vit VIT.safetensors --cnn CNN.safetensors --out runs

Each row is trained with `crt.train` (labels only), measured on three lists and written to docs/records/.  Started again
after it was stopped, it goes on where it was.  Rows with tiling see photos as the preset `fast` does, at its two
smaller scales; the row without sees each photo squeezed into one tile.  Average precision is of the photo in one
tile.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from _runner import CNN, RECORDS, VOC, Curves, Lists, ViT, is_done, levels, per_threshold, trained
from PIL import Image

from crt.cam import PRESETS, CAMExtractor
from crt.data import ImageDataset, Sample
from crt.evaluate.record import write_record
from crt.evaluate.seeds import seeds_of_model
from crt.images import normalize, to_tensor
from crt.labels import to_multi_hot
from crt.metrics import MultilabelAP
from crt.models import CRT
from crt.train import build_branches, make_recipe
from crt.train.recipe import CAMRecipe

LISTS = ("train", "train_allclass", "val_animals")
SCALES = (0.44, 0.88)
TILED = {**PRESETS["fast"], "scales": SCALES}


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


def seeds(model: CRT, photos: Sequence[Sample], tiling: bool) -> Iterator[tuple[torch.Tensor, Sequence[int]]]:
    """Maps of photos and their classes."""
    if tiling:
        yield from seeds_of_model(CAMExtractor(model, **TILED), photos)
        return
    for photo in photos:
        image = Image.open(photo.image).convert("RGB")
        size = (image.height, image.width)
        (result,) = CAMExtractor(model, flip=False)(image.resize((model.tile, model.tile)), [photo.labels], size=size)
        yield result.maps, result.labels


def average_precision(model: CRT, root: Path) -> float:
    """Of `val_animals`, over the classes that occur there."""
    metric = MultilabelAP(model.num_classes)
    for photo in ImageDataset.from_voc(root, "val_animals"):
        image = Image.open(photo.image).convert("RGB").resize((model.tile, model.tile))
        with torch.no_grad():
            logits = model(normalize(to_tensor(image).to(model.device), model.mean, model.std)[None])
        metric.update(logits, to_multi_hot(photo.labels, 1, model.num_classes))
    return float(metric.compute()["map"])


def main(
    voc: VOC,
    vit: ViT,
    cnn: CNN,
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    split: Annotated[str, typer.Option("--list", help="Training list.")] = "cls_train",
    epochs: int = 2,
    rows: Annotated[str, typer.Option(help="Rows to do, from 0.")] = "0,1,2,3,4",
) -> None:
    photos = ImageDataset.from_voc(voc, split)
    for row in (ROWS[int(i)] for i in rows.split(",")):
        record, recipe = RECORDS / f"{row.name}.json", recipe_of(row, epochs)
        if is_done(record):
            continue
        model = build_branches(recipe, photos.class_names, backbone_checkpoint=vit, cnn_checkpoint=cnn)
        network = trained(model, photos, out / row.name, recipe)
        curves = Curves(Lists(voc, LISTS), levels(0.01, 60))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = curves.add_all(seeds(network, curves.lists.photos, row.tiling)).of
            ap = average_precision(network, voc)
        threshold = found["train"].best()[0]
        miou = {name: per_threshold(curve)[f"{threshold:.3f}"] for name, curve in found.items()}
        write_record(
            record,
            measure="ablation",
            **row._asdict(),
            recipe=dataclasses.asdict(recipe),
            seed=0,
            training_list=split,
            scales=SCALES if row.tiling else "one tile",
            stride=TILED["stride"] if row.tiling else None,
            flip=False,
            bf16=True,
            threshold=round(threshold, 3),
            threshold_rule="best on train",
            miou=miou,
            map_val_animals=ap,
        )
        print(row, miou, ap)


if __name__ == "__main__":
    typer.run(main)
