"""Twenty photos of a list, from the best masks to the worst: the seed's mask and the refined one, with their mIoU.

python benchmarks/sheet.py --voc VOC2012 --list train_allclass --out docs/masks.jpg \\
  --json docs/records/masks_irn_lite0_train_allclass.json

The photos are drawn at random (--seed) from twenty equal parts of the list, which is ranked by the mIoU of each photo's
refined mask.  The masks alone are drawn, in VOC's colours; --photos adds photo and truth, for one's own screen: VOC's
photos are not ours to hand on.  Thresholds: the model's own for the seed, the best on the list for the refined maps.
The record says where the refined masks are wrong: by class, by the number of classes, by the size of the objects.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from _runner import VOC, levels, show
from PIL import Image
from torch import Tensor, nn

import crt
from crt._files import whole_file
from crt.cam import PRESETS, CAMExtractor, mask_from_cam
from crt.data import VOC_CLASSES, ImageDataset, Sample
from crt.evaluate import measure_seeds
from crt.evaluate.record import seen_by, write_record
from crt.masks import load_mask
from crt.metrics.mask_iou import confusion_matrix, error_rates, iou_per_class, mean_iou
from crt.viz import contact_sheet, paint_mask, under_title

COUNT = 20
SIZES = (0.0, 0.05, 0.15, 0.3, 0.5, 1.0)  # shares of the photo that its objects cover


def both_maps(
    extractor: CAMExtractor, refiner: nn.Module, photos: Iterable[Sample]
) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
    """The seed's maps, the refined ones, and their classes, of each photo."""
    for result in extractor.stream((Image.open(photo.image), photo.labels) for photo in photos):
        yield result.maps, result.refined(refiner).maps, result.labels


def spread(scores: Tensor, count: int, seed: int) -> list[int]:
    """Places of photos, one from each of ``count`` equal parts of the ranking, the best first; (N,) -> count."""
    ranking = scores.argsort(descending=True).tolist()
    parts = torch.linspace(0, len(ranking), min(count, len(ranking)) + 1).long().tolist()
    random = torch.Generator().manual_seed(seed)
    draws = [(first, int(torch.randint(end - first, (1,), generator=random))) for first, end in pairwise(parts)]
    return [ranking[first + place] for first, place in draws]


def strip(photo: Sample, masks: Sequence[Tensor], height: int, with_photo: bool) -> Image.Image:
    """The masks of a photo side by side, its name, classes and their mIoU above; with photo and truth if asked."""
    truth = torch.from_numpy(load_mask(photo.mask)).long()
    scores = [mean_iou(confusion_matrix(mask.long(), truth, len(VOC_CLASSES))) for mask in masks]
    text = " > ".join(f"{100 * float(score):.0f}" for score in scores)
    pictures = [paint_mask(mask) for mask in masks]
    if with_photo:
        pictures = [Image.open(photo.image).convert("RGB"), *pictures, paint_mask(truth)]
    row = contact_sheet([pictures], height=height)
    names = ", ".join(VOC_CLASSES[label] for label in photo.labels)
    return under_title(row, f"{photo.name}: {text} ({names})", size=11)


def errors(data: ImageDataset, confusion: Tensor, scores: Tensor) -> dict[str, Any]:
    """What is wrong where: (21, 21) counts of the list, and (N,) mIoU of each photo; a group is [photos, mean mIoU]."""
    groups: dict[str, dict[str, list[float]]] = {"by_classes": {}, "by_size": {}}
    for photo, score in zip(data, scores.tolist(), strict=True):
        truth = load_mask(photo.mask)
        covered = float((truth[truth != 255] > 0).mean())
        size = next(f"{low:g} to {high:g}" for low, high in pairwise(SIZES) if covered <= high)
        groups["by_classes"].setdefault(f"{min(len(photo.labels), 3)}", []).append(score)
        groups["by_size"].setdefault(size, []).append(score)
    shares = torch.stack([iou_per_class(confusion), *error_rates(confusion)], dim=1).tolist()
    names = ("background", *VOC_CLASSES)
    per_class = {name: values for name, values in zip(names, shares, strict=True) if values[0] == values[0]}
    means = {
        kind: {name: [len(values), sum(values) / len(values)] for name, values in sorted(found.items())}
        for kind, found in groups.items()
    }
    return {"iou_fp_fn": per_class, **means}


def sheet(strips: Sequence[Image.Image], columns: int, title: str) -> Image.Image:
    """Strips in rows on cells of one size, below a title."""
    width, height = max(picture.width for picture in strips), max(picture.height for picture in strips)
    cells = [Image.new("RGB", (width, height), "white") for _ in strips]
    for cell, picture in zip(cells, strips, strict=True):
        cell.paste(picture, (0, 0))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    return under_title(contact_sheet(rows, height=height, gap=8), title)


def main(
    voc: VOC,
    out: Annotated[Path, typer.Option(help="The picture: .jpg or .png.")],
    split: Annotated[str, typer.Option("--list", help="Its list.")] = "train_allclass",
    refine: Annotated[str, typer.Option(help="A refiner, or several joined by +.")] = "irn_lite0",
    model: str = "crt_vit_t16.voc9k",
    preset: str = "fast",
    photos: Annotated[bool, typer.Option("--photos", help="Draw photo and truth too.")] = False,
    columns: int = 4,
    height: Annotated[int, typer.Option(help="Of a mask, in pixels.")] = 110,
    seed: int = 0,
    record: Annotated[Path | None, typer.Option("--json", help="Where the record goes.")] = None,
) -> None:
    data, network = ImageDataset.from_voc(voc, split, masks=True), crt.create_model(model, pretrained=True)
    refiner = crt.create_refiner(refine, pretrained=True, model=network)
    extractor = CAMExtractor(network, **PRESETS[preset])

    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        refined = ((maps, labels) for _, maps, labels in both_maps(extractor, refiner, data))
        report = measure_seeds(refined, data, levels(0.02, 45), progress=show)
        threshold, best = report.curve.best()
        place = int(report.curve.compute().view(-1).argmax())
        scores = report.photos[:, place]
        chosen = [data[i] for i in spread(scores, COUNT, seed)]
        strips = []
        for photo, (seeds, better, labels) in zip(chosen, both_maps(extractor, refiner, chosen), strict=True):
            cuts = ((seeds, network.seed_threshold), (better, threshold))
            strips.append(strip(photo, [mask_from_cam(maps, labels, cut) for maps, cut in cuts], height, photos))
    title = (
        f"{split}: {len(strips)} of {len(data)} photos, best to worst; seed (threshold {network.seed_threshold:.2f}) > "
        f"{refine} (threshold {threshold:.2f}, mIoU {100 * best:.1f}). Numbers: mIoU of the photo's classes."
    )
    with whole_file(out) as temporary:
        sheet(strips, columns, title).save(temporary, format="PNG" if out.suffix == ".png" else "JPEG", quality=85)
    print(title)
    if record is not None:
        what = {
            "measure": "errors of refined masks",
            "model": model,
            "refiner": refine,
            "root": voc.name,
            "list": split,
        }
        how = {"photos": len(data), "preset": preset, **seen_by(extractor, bf16=True)}
        found = errors(data, report.curve.confusion()[place], scores)
        rule = {"threshold": round(threshold, 3), "threshold_rule": "best on this list", "miou": best}
        write_record(record, **what, **how, **rule, **found)


if __name__ == "__main__":
    typer.run(main)
