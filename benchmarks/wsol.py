"""Localisation on CUB: the ablation over passes and CNN branch, and training on pseudo masks on top.

python benchmarks/wsol.py --cub CUB_200_2011 --vit VIT.safetensors --cnn CNN.safetensors --out runs --rows bundled

A tenth of the training photos of each class is held back: its boxes chose how the pseudo masks are made and choose the
thresholds, nothing else.  Boxes of other photos are looked at once a row, with the last epoch's weights.  Each
row goes to docs/records/; started again after it was stopped, a run goes on where it was.

The row "bundled" is the transformer of crt_vit_t16.cub50: after a run on labels it learns from pseudo masks, which are
the maps of "bird" of the model that was trained on VOC's labels; a classifier of birds alone never sees the difference
between a bird and what birds sit on.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from _seeds import show
from _training import trained

import crt
from crt._files import whole_file
from crt.cam import CAMExtractor
from crt.cli.report import write_record
from crt.data import CUBLocalisation, LabelledPhotos, load_mask, save_mask
from crt.metrics import BoxReport, measure_boxes
from crt.models import CRT
from crt.pseudo import make_pseudo_masks
from crt.train import CAMRecipe, build_branches, make_recipe

RECORDS = Path(__file__).parents[1] / "docs" / "records"
THRESHOLDS = [round(0.01 * i, 2) for i in range(100)]
TEACHER, OBJECT = "crt_vit_t16.voc9k", "bird"
UNSURE = (0.10, 0.20)  # of the pseudo masks: on either side of 0.15, best for refined maps of the photos held back


class Row(NamedTuple):
    passes: int
    cnn: bool
    masks: bool = False
    square: int = 224  # pixels a side to which photos are resized for measuring

    @property
    def recipes(self) -> list[CAMRecipe]:
        """Of the run on labels and, with masks, of the one on pseudo masks."""
        if self.masks:
            return [make_recipe("t16-cub50"), make_recipe("t16-cub50-masks")]
        base = make_recipe("t16-cub50", ["epochs=4"])
        cnn, coupling = (base.cnn, base.coupling) if self.cnn else (None, 0.0)
        return [dataclasses.replace(base, num_passes=self.passes, cnn=cnn, coupling=coupling)]


ROWS = {f"n{n}_{'cnn' if cnn else 'alone'}": Row(n, cnn) for cnn in (False, True) for n in (0, 1, 3)}
ROWS["bundled_224"] = Row(0, True, masks=True)
ROWS["bundled"] = Row(0, True, masks=True, square=320)  # of 224, 320 and as they are, best for the photos held back


def split(cub: Path) -> tuple[LabelledPhotos, CUBLocalisation]:
    """The training photos without every tenth of each class, and these with their boxes."""
    held, photos = CUBLocalisation(cub, "train"), LabelledPhotos.from_cub(cub, "train")
    seen = [0] * len(held.class_names)
    back = set()
    for photo in held.photos:
        seen[photo.label] += 1
        if seen[photo.label] % 10 == 0:
            back.add(photo.name)
    held.photos = [photo for photo in held.photos if photo.name in back]
    return LabelledPhotos([p for p in photos.photos if p.name not in back], photos.class_names), held


def last_of(row: Row, photos: LabelledPhotos, vit: Path, cnn: Path, out: Path) -> CRT:
    """The transformer after the last run of the row; runs that are done are left as they are."""
    first, *second = row.recipes
    last = out / "labels"
    if not (last / "model").exists():
        start = build_branches(first, photos.class_names, backbone_checkpoint=vit, cnn_checkpoint=cnn)
        trained(start, photos, last, first)
    for recipe in second:
        before, last = last, out / "masks"
        if not (last / "model").exists():
            pseudo_masks(photos, out)
            start = build_branches(recipe, photos.class_names, start=before / "model")
            trained(start, photos.with_masks(out / "pseudo"), last, recipe)
    return crt.create_model(f"local-dir:{last / 'model'}", pretrained=True)


def pseudo_masks(photos: LabelledPhotos, out: Path) -> None:
    """``out/pseudo/NAME.png``: where the teacher sees its object, the photo's class."""
    teacher = crt.create_model(TEACHER, pretrained=True)
    objects = [photo._replace(labels=[teacher.class_names.index(OBJECT)]) for photo in photos.photos]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        make_pseudo_masks(
            CAMExtractor(teacher),
            crt.create_refiner("pamr"),
            LabelledPhotos(objects, teacher.class_names),
            out / "objects",
            threshold=UNSURE,
            progress=show,
        )
    for photo in photos.photos:
        mask = load_mask(out / "objects" / f"{photo.name}.png")
        target = out / "pseudo" / f"{photo.name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as temporary:
            save_mask(np.where((mask == 0) | (mask == 255), mask, photo.labels[0] + 1).astype(np.uint8), temporary)


def measured(model: CRT, data: CUBLocalisation, threshold: float, row: Row) -> BoxReport:
    """Of photos squeezed into a square, as usual in this task, with their mirror images."""
    how = {"thresholds": THRESHOLDS, "square": row.square, "progress": show}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return measure_boxes(CAMExtractor(model), data, threshold, **how)


def main(
    cub: Annotated[Path, typer.Option(help="Folder in the layout of CUB-200-2011.")],
    vit: Annotated[Path, typer.Option(help="ImageNet weights of the ViT.")],
    cnn: Annotated[Path, typer.Option(help="ImageNet weights of the CNN.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    rows: Annotated[str, typer.Option(help="Rows to do.")] = ",".join(ROWS),
) -> None:
    (photos, held), test = split(cub), CUBLocalisation(cub, "test")
    for name in rows.split(","):
        record, row = RECORDS / f"wsol_{name}.json", ROWS[name]
        if record.exists():
            print(f"{record} is there")
            continue
        model = last_of(row, photos, vit, cnn, out / name.removesuffix("_224"))
        chosen = measured(model, held, 0.5, row).curve.compute()
        place = int(chosen["box_acc"][:, 1].argmax())  # at IoU 0.5
        threshold = THRESHOLDS[place]
        found = measured(model, test, threshold, row)
        scores, curve = found.localisation.compute(), found.curve.compute()
        write_record(
            record,
            measure="localisation",
            passes=row.passes,
            cnn=row.cnn,
            masks=row.masks,
            recipes=[dataclasses.asdict(recipe) for recipe in row.recipes],
            teacher=f"{TEACHER}, {OBJECT}" if row.masks else None,
            seed=0,
            training_photos=len(photos),
            list="test",
            photos=len(test),
            classes=len(test.class_names),
            resolution=f"{row.square} x {row.square}",
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
