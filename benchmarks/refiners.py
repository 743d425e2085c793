"""Refiners side by side: mIoU of refined maps over background thresholds, seconds a photo, peak memory.

python benchmarks/refiners.py --voc VOC2012 --lists train,train_allclass --refine none,pamr,crf,irn_lite0+pamr

The maps are made once a photo and given to every refiner; "none" measures the seeds themselves.  Refiners that begin
alike (irn_lite0, irn_lite0+pamr) share what they have in common; each is told the seconds of all its parts.  The
threshold is chosen on the first list and used for the others.  A refiner whose records are all there is left out.
A boundary network of your own: `irn=local-dir:RUN/model` (NAME=REFINER, the records are called by NAME).

Peak memory is that of the refiner alone, beyond what its process held before: in a process of its own, on one photo.
"""

import hashlib
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from _runner import RECORDS, VOC, Curves, Lists, levels, per_threshold, show
from _timing import peak_memory
from PIL import Image
from torch import Tensor, nn

import crt
from crt.cam import PRESETS, CAMExtractor, CAMResult
from crt.cam.functional import normalize_cam
from crt.evaluate.record import seen_by, write_record
from crt.images import resize, to_tensor
from crt.masks import load_mask

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "chelsea.jpg"
SEED = "none"
Timed = dict[str, tuple[Tensor, float]]  # what a refiner made of a photo's maps, and in how many seconds


def named(refiners: str) -> dict[str, str]:
    """ "none,irn=local-dir:RUN/model+pamr" -> refiners by the names of their records."""
    found = {}
    for text in refiners.split(","):
        name, _, refiner = text.partition("=") if re.match(r"[\w+.-]+=", text) else (text, "", text)
        if not re.fullmatch(r"[\w+.-]+", name):
            raise typer.BadParameter(f"{text!r} needs a name for its records: NAME={text}.")
        found[name] = refiner
    return found


def parts_of(refiner: str) -> list[str]:
    return [] if refiner == SEED else refiner.split("+")


def refined(result: CAMResult, refiner: str, modules: dict[str, nn.Module], done: Timed) -> tuple[Tensor, float]:
    """The maps after all parts of the refiner and the seconds it takes; ``done`` remembers each part's."""
    maps, seconds = result.maps, 0.0
    for place, part in enumerate(parts_of(refiner), 1):
        so_far = "+".join(parts_of(refiner)[:place])
        if so_far not in done:
            begun = time.perf_counter()
            (after,) = modules[part](result.pixels[None], maps[None])
            done[so_far] = after, seconds + time.perf_counter() - begun
        maps, seconds = done[so_far]
    return (maps if refiner == SEED else normalize_cam(maps)), seconds


def measure(
    extractor: CAMExtractor, lists: Lists, refiners: dict[str, str]
) -> tuple[dict[str, Curves], dict[str, dict[str, float]]]:
    """By the refiners' names: the curves, and each photo's seconds by its name."""
    parts = {part for refiner in refiners.values() for part in parts_of(refiner)}
    modules = {part: crt.create_refiner(part, pretrained=True, model=extractor.model) for part in parts}
    curves = {name: Curves(lists, levels(0.02, 45)) for name in refiners}
    seconds: dict[str, dict[str, float]] = defaultdict(dict)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        results = extractor.stream((Image.open(photo.image), photo.labels) for photo in lists.photos)
        pairs = zip(lists.photos, results, strict=True)
        for photo, result in show(pairs, len(lists.photos)):
            truth, done = torch.from_numpy(load_mask(photo.mask)), Timed()
            for name, refiner in refiners.items():
                maps, seconds[name][photo.name] = refined(result, refiner, modules, done)
                curves[name].add(photo, maps, result.labels, truth)
    return curves, seconds


def peak(refiner: str, model: str, height: int, width: int) -> float:
    """Peak memory of a refiner in MB, by ``print_peak`` in a process of its own."""
    command = [sys.executable, __file__, "--peak", f"{height},{width}", "--refine", refiner, "--model", model]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


@torch.inference_mode()
def print_peak(refiner: str, model: str, size: str) -> None:
    """With two smooth maps, after a small photo that lets the refiner load what it needs."""
    height, width = (int(side) for side in size.split(","))
    network = crt.create_model(model, pretrained=True)
    module = crt.create_refiner(refiner, pretrained=True, model=network)
    photo = to_tensor(Image.open(PHOTO).convert("RGB").resize((width, height)), device=network.device)[None]
    coarse = torch.rand(2, 12, 16, generator=torch.Generator().manual_seed(0))
    maps = resize(coarse, (height, width))[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(photo[..., :32, :32], maps[..., :32, :32])
        print(peak_memory(lambda: module(photo, maps))["beyond_mb"])


def weights(refiner: str) -> dict[str, str]:
    """SHA-256 of the weights of parts that are not in the repository."""
    found = {}
    for part in parts_of(refiner):
        path = Path(part.removeprefix("local-dir:"))
        if part.startswith("local-dir:"):
            file = path / "model.safetensors" if path.is_dir() else path
            found[path.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def write(records: Path, name: str, curves: Curves, seconds: dict[str, float], **fields: Any) -> None:
    """A record for each list."""
    first = next(iter(curves.of))
    threshold = curves.of[first].best()[0]
    for split, curve in curves.of.items():
        data, points = curves.lists.data[split], per_threshold(curve)
        miou, (own_threshold, own) = points[f"{threshold:.3f}"], curve.best()
        taken = [seconds[photo.name] for photo in data]
        write_record(
            records / f"refined_{name}_{split}.json",
            measure="refined mIoU",
            refiner=name,
            list=split,
            photos=len(data),
            threshold=round(threshold, 3),
            threshold_rule=f"best on {first}",
            miou=miou,
            best_threshold=round(own_threshold, 3),
            best_miou=own,
            seconds_median=statistics.median(taken),
            seconds_mean=statistics.fmean(taken),
            curve=points,
            **fields,
        )
        print(f"{name}, {split}: {100 * miou:.2f} at {threshold:.2f}, {statistics.median(taken):.2f} s a photo")


def main(
    refine: Annotated[str, typer.Option(help="[NAME=]REFINER, separated by commas; its parts joined by +, or none.")],
    voc: VOC = Path("VOC2012"),
    lists: Annotated[str, typer.Option(help="Its lists; the first one chooses the threshold.")] = "train",
    model: str = "crt_vit_t16.voc9k",
    preset: str = "fast",
    records: Annotated[Path, typer.Option(help="Folder for the records.")] = RECORDS,
    again: Annotated[bool, typer.Option("--again", help="Measure what has been measured.")] = False,
    memory_size: Annotated[str, typer.Option(help="HEIGHT,WIDTH of the photo for the peak memory.")] = "375,500",
    peak_only: Annotated[str | None, typer.Option("--peak", hidden=True)] = None,
) -> None:
    if peak_only:
        print_peak(refine, model, peak_only)
        return
    todo = named(refine)
    for name in list(todo):
        if not again and all((records / f"refined_{name}_{split}.json").exists() for split in lists.split(",")):
            print(f"{name}: its records are there")
            del todo[name]
    if not todo:
        return
    height, width = (int(side) for side in memory_size.split(","))
    peaks = {n: 0.0 if refiner == SEED else peak(refiner, model, height, width) for n, refiner in todo.items()}
    extractor = CAMExtractor(crt.create_model(model, pretrained=True), **PRESETS[preset])
    seen = {"preset": preset, **seen_by(extractor, bf16=True)}
    curves, seconds = measure(extractor, Lists(voc, lists.split(",")), todo)
    for name, refiner in todo.items():
        memory = {"peak_memory_mb": peaks[name], "peak_memory_photo": [height, width], "peak_memory_maps": 2}
        place = {"model": model, "root": voc.name, **seen, "weights_sha256": weights(refiner)}
        write(records, name, curves[name], seconds[name], **place, **memory)


if __name__ == "__main__":
    typer.run(main)
