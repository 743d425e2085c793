"""Masks of a model on VOC lists, with and without labels, in one pass over the photos.

python benchmarks/masks.py --voc VOC2012 --lists train,train_allclass,val_animals --model crt_vit_s16.voc9k

Each photo is computed once with its own labels (the seed) and once with all classes (segmentation: no labels are
used); both are measured as they are and after a refiner.  All masks are cut at the model's own threshold.  One record
a list: mIoU, IoU of each class, and the multi-label mAP of the model's logits.  ``--shards N --shard I`` measures every
Nth photo only; ``--merge`` adds the shards up.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from _runner import RECORDS, VOC, Lists, save, show
from safetensors.torch import load_file
from torch import Tensor

import crt
from crt._files import write_tensors
from crt.cam import PRESETS, CAMExtractor, CAMResult
from crt.data import VOC_CLASSES
from crt.evaluate.record import seen_by
from crt.images import open_image
from crt.masks import load_mask
from crt.metrics.mask_iou import confusion_matrix, iou_per_class, mean_iou
from crt.metrics.multilabel_ap import average_precision

NAMES = ["background", *VOC_CLASSES]


def main(
    voc: VOC,
    lists: Annotated[str, typer.Option(help="Lists of the folder, separated by commas.")] = "train_allclass",
    model: str = "crt_vit_s16.voc9k",
    folder: Annotated[Path | None, typer.Option(help="Weights to measure in the model's place.")] = None,
    preset: str = "whole",
    refine: Annotated[str, typer.Option(help="The refiner.")] = "pamr",
    records: Annotated[Path, typer.Option(help="Folder for the records.")] = RECORDS,
    suffix: Annotated[str, typer.Option(help="Ending of the records' names, before .json.")] = "",
    shards: int = 1,
    shard: int = 0,
    parts: Annotated[Path | None, typer.Option(help="Folder for what each shard counted.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Write the records from the shards in --parts.")] = False,
) -> None:
    chosen = Lists(voc, lists.split(","))
    network = crt.create_model(f"local-dir:{folder}" if folder else model, pretrained=True)
    extractor = CAMExtractor(network, **PRESETS[preset])
    if merge and parts is not None:
        files = [load_file(file) for file in sorted(parts.glob("shard-*.safetensors"))]
        found = {
            name: torch.cat([f[name] for f in files]) if name.endswith(SEPARATE) else sum(f[name] for f in files)
            for name in files[0]
        }
    else:
        found = _count(extractor, crt.create_refiner(refine, pretrained=True, model=network), chosen, shards, shard)
    if parts is not None and not merge:
        parts.mkdir(parents=True, exist_ok=True)
        write_tensors(parts / f"shard-{shard}.safetensors", found, {})
        return
    for name, data in chosen.data.items():
        ways = {way: found[f"{name}.{way}"] for way in WAYS}
        means = {way: round(float(mean_iou(counts)), 6) for way, counts in ways.items()}
        print(name, {way: f"{100 * miou:.2f}" for way, miou in means.items()})
        save(
            records / f"ways_{model.removeprefix('crt_vit_').replace('.', '_')}_{name}{suffix}.json",
            "mask mIoU, with and without labels",
            model=model,
            refiner=refine,
            root=voc.name,
            list=name,
            photos=len(data),
            preset=preset,
            **seen_by(extractor, bf16=False),
            threshold_rule="the model's own",
            threshold=network.seed_threshold,
            miou=means,
            map=_mean_precision(found[f"{name}.logits"], found[f"{name}.targets"]),
            classes={
                title: {way: _share(iou_per_class(counts)[i]) for way, counts in ways.items()}
                for i, title in enumerate(NAMES)
            },
        )


WAYS = ("seed", "seed_refined", "segment", "segment_refined")
SEPARATE = (".logits", ".targets")


def _count(
    extractor: CAMExtractor, refiner: torch.nn.Module, lists: Lists, shards: int, shard: int
) -> dict[str, Tensor]:
    """Confusion counts of each list and way, and logits and targets of each list's photos."""
    size = len(NAMES)
    found = {f"{name}.{way}": torch.zeros(size, size, dtype=torch.int64) for name in lists.data for way in WAYS}
    rows: dict[str, list[Tensor]] = {f"{name}{end}": [] for name in lists.data for end in SEPARATE}
    photos = lists.photos[shard::shards]
    for photo in show(photos, len(photos)):
        image, truth = open_image(photo.image), torch.from_numpy(load_mask(photo.mask))
        target = torch.zeros(1, len(VOC_CLASSES), dtype=torch.int64)
        target[0, photo.labels] = 1
        (known,), (free,) = extractor(image, target), extractor(image, torch.ones_like(target))
        scores = free.scores
        free = free.keep([int(value) - 1 for value in free.mask().unique()])
        masks = zip(WAYS, (known, known.refined(refiner), free, free.refined(refiner)), strict=True)
        counts = {way: _confusion(result, truth) for way, result in masks}
        for name in lists.of(photo):
            for way, counted in counts.items():
                found[f"{name}.{way}"] += counted
            if scores is not None:
                rows[f"{name}.logits"].append(scores.view(1, -1).logit(eps=1e-7))
                rows[f"{name}.targets"].append(target)
    empty = torch.zeros(0, len(VOC_CLASSES))
    return found | {name: torch.cat(values) if values else empty for name, values in rows.items()}


def _confusion(result: CAMResult, truth: Tensor) -> Tensor:
    return confusion_matrix(result.mask().cpu(), truth, len(VOC_CLASSES))


def _mean_precision(logits: Tensor, targets: Tensor) -> float | None:
    """mAP over the classes that a list shows; None for a model without a classifier beside its maps."""
    return round(float(average_precision(logits, targets).nanmean()), 6) if len(logits) else None


def _share(value: Tensor) -> float | None:
    return None if bool(value.isnan()) else round(float(value), 6)


if __name__ == "__main__":
    typer.run(main)
