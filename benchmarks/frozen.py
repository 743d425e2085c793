"""What each part of the recipe `s16-voc9k` does: heads on a frozen ViT-S.

python benchmarks/frozen.py --voc VOC2012 --vit vit_small_patch14_dinov2.da2.fp16.safetensors --out runs

A row is a change of the recipe.  The features are computed once for each backbone and scale, and steps that a change
does not concern are kept, so most rows take a few minutes on two cores.  Measured on features, too: the probabilities
of the patches of ``--list``, spread and enlarged to the masks' size, with the photo's own labels and with none; one
record a row.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from _runner import RECORDS, VOC, Again, is_done, save, show, show_steps
from torch import Tensor
from torch.nn import functional as F

import crt
from crt.data import ImageDataset
from crt.masks import load_mask
from crt.metrics.mask_iou import confusion_matrix, mean_iou
from crt.metrics.multilabel_ap import average_precision
from crt.models import CRT
from crt.train import RECIPES, train_frozen
from crt.train.features import FeatureCache
from crt.train.margins import posterior
from crt.train.objectness import Linear


@dataclasses.dataclass(frozen=True)
class Row:
    """One training run.

    Attributes:
        title: what the table calls it.
        changes: of the recipe.
        patch: side of a patch in pixels.
        seed: of the run.
    """

    title: str
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    patch: int = 16
    seed: int = 0


ROWS = {
    "recipe": Row("the recipe: no mask is used"),
    "tuned": Row("masks of `train` choose the margins (the bundled weights)", {"margins": "tuned"}),
    "seed1": Row("another seed", seed=1),
    "no_objectness": Row("first maps without objectness", {"object_floor": 1.0}),
    "no_rounds": Row("no rounds after the first labels", {"rounds": 0}),
    "one_round": Row("one round", {"rounds": 1}),
    "three_rounds": Row("three rounds", {"rounds": 3}),
    "tuned_last": Row("masks of `train` choose the margins of the result alone", {"margins": "tuned-last"}),
    "no_spread": Row("probabilities not spread", {"spread": 0.0}),
    "spread4": Row("spread by the 4th power", {"spread": 4.0}),
    "spread16": Row("spread by the 16th power", {"spread": 16.0}),
    "view1": Row("photos seen at scale 1 in training", {"view_scale": 1.0}),
    "patch14": Row("patches of 14 pixels, as many of them", {"view_scale": 1.25 * 14 / 16}, patch=14),
}

BACKBONES: dict[int, dict[str, Any]] = {  # by the side of a patch: as in the bundled model, and as it was pretrained
    16: {"tile": 592, "stride": 288},
    14: {"backbone": "vit_small_patch14_dinov2", "tile": 518, "stride": 252},
}


def main(
    voc: VOC,
    vit: Annotated[Path, typer.Option(help="Weights of the ViT-S/14.")],
    out: Annotated[Path, typer.Option(help="Folder for features and runs.")],
    rows: Annotated[str, typer.Option(help="Rows, separated by commas.")] = ",".join(ROWS),
    list_: Annotated[str, typer.Option("--list", help="The list that is measured.")] = "train_allclass",
    every: Annotated[int, typer.Option(help="Train on every n-th photo of `cls_train`.")] = 1,
    suffix: Annotated[str, typer.Option(help="Ending of the records' names, before .json.")] = "",
    records: Annotated[Path, typer.Option(help="Folder for the records.")] = RECORDS,
    again: Again = False,
) -> None:
    photos = ImageDataset.from_voc(voc, "cls_train")
    photos = ImageDataset(photos.samples[::every], photos.class_names)
    measured = ImageDataset.from_voc(voc, list_, masks=True)
    for name in rows.split(","):
        row, path = ROWS[name], records / f"frozen_{name}{suffix}.json"
        if is_done(path, again=again):
            continue
        truth_scale = row.patch / 16  # as many patches, whatever their side
        recipe = dataclasses.replace(RECIPES["s16-voc9k"], truth_scale=truth_scale, **row.changes)
        model = crt.create_model(
            "crt_vit_s16",
            class_names=photos.class_names,
            num_passes=0,
            attention_power=0.0,
            backbone_checkpoint=vit,
            **BACKBONES[row.patch],
        )
        folder = out / f"{row.patch}_{recipe.view_scale:g}"
        tuned = ImageDataset.from_voc(voc, "train", masks=True) if recipe.margins != "otsu" else None
        train_frozen(model, photos, folder, recipe, truth=tuned, seed=row.seed, progress=show_steps)
        cache = FeatureCache(model, measured, out / f"{row.patch}_{list_}", scale=truth_scale, progress=show_steps)
        save(
            path,
            "heads on frozen features",
            seed=row.seed,
            row=name,
            title=row.title,
            changes=row.changes,
            patch=row.patch,
            photos_trained=len(photos),
            list=list_,
            photos=len(measured),
            threshold_rule="margins: " + recipe.margins,
            recipe=dataclasses.asdict(recipe),
            **_measure(cache, model, measured, recipe.spread),
        )


def _measure(cache: FeatureCache, model: CRT, photos: ImageDataset, power: float) -> dict[str, Any]:
    """mIoU with the photos' labels and with none, and the mAP of the classifier."""
    size = cache.targets.shape[1]
    weight = model.head.weight.detach()[..., 1, 1]
    head = Linear(F.pad(weight, (0, 0, 1, 0)), F.pad(model.head.bias.detach(), (1, 0)))
    labels_of: dict[str, Callable[[Tensor], list[int]]] = {
        "seed": lambda target: target.nonzero()[:, 0].tolist(),
        "segment": lambda target: list(range(size)),
    }
    counts = {way: torch.zeros(size + 1, size + 1, dtype=torch.int64) for way in labels_of}
    logits = []
    for index, photo in show(enumerate(photos), len(photos)):
        features, truth = cache[index], torch.from_numpy(load_mask(photo.mask))
        x, grid = features.patches.flatten(1).T, features.patches.shape[1:]
        for way, choose in labels_of.items():
            labels = choose(cache.targets[index])
            shares = posterior(head, x, labels, power).unflatten(1, grid)[None]
            place = F.interpolate(shares, truth.shape, mode="bilinear", align_corners=False)[0].argmax(dim=0)
            values = torch.tensor([0, *[label + 1 for label in labels]])
            counts[way] += confusion_matrix(values[place], truth, size)
        logits.append(model.classifier(torch.cat([features.class_token, x.mean(dim=0)]))[None])
    precision = average_precision(torch.cat(logits).detach(), cache.targets.long())
    return {
        "miou": {way: round(float(mean_iou(found)), 6) for way, found in counts.items()},
        "map": round(float(precision.nanmean()), 6),
    }


if __name__ == "__main__":
    typer.run(main)
