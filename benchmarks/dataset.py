"""Photos a second over a real data set: reading, decoding, extraction, cutting the mask, writing it.

python benchmarks/dataset.py --voc VOC2012 --photos 200 --json docs/records/dataset.json

The stream, which reads ahead in a thread and shares batches among photos, against the same extractor called with one
photo after another.  The two take turns, a part of the photos at a time, and must write the same masks.  What reading
and writing cost alone is measured beside them.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from _runner import VOC, Json
from _timing import device_name, medians, take_turns
from PIL import Image
from rich.progress import track

import crt
from crt.cam import PRESETS, CAMExtractor, CAMResult
from crt.data import ImageDataset
from crt.evaluate.record import write_record
from crt.images import open_image
from crt.masks import load_mask, save_mask

PART = 20  # photos between two turns


def save(result: CAMResult, photo: Any, folder: Path) -> None:
    save_mask(result.mask().cpu(), folder / f"{photo.name}.png")


def streamed(extractor: CAMExtractor, photos: list[Any], folder: Path) -> None:
    pairs = ((Image.open(photo.image), photo.labels) for photo in photos)
    for photo, result in zip(photos, extractor.stream(pairs), strict=True):
        save(result, photo, folder)


def one_by_one(extractor: CAMExtractor, photos: list[Any], folder: Path) -> None:
    for photo in photos:
        (result,) = extractor(Image.open(photo.image), [photo.labels])
        save(result, photo, folder)


def read(extractor: CAMExtractor, photos: list[Any]) -> None:
    for photo in photos:
        open_image(photo.image)


def rewrite(photos: list[Any], folder: Path) -> None:
    for photo in photos:
        save_mask(torch.from_numpy(load_mask(folder / f"{photo.name}.png")), folder / f"again_{photo.name}.png")


def parts(photos: list[Any]) -> Iterator[list[Any]]:
    for first in range(0, len(photos), PART):
        yield photos[first : first + PART]


def different(photos: list[Any], one: Path, other: Path) -> float:
    """The share of pixels at which the two folders' masks differ."""
    differ = total = 0
    for photo in photos:
        a, b = (load_mask(folder / f"{photo.name}.png") for folder in (one, other))
        differ, total = differ + int((a != b).sum()), total + a.size
    return differ / total


def main(
    voc: VOC,
    split: Annotated[str, typer.Option("--list", help="Its list.")] = "train",
    photos: Annotated[int, typer.Option(help="How many, from the list's beginning.")] = 200,
    model: Annotated[str, typer.Option(help="A name of `crt models`.")] = "crt_vit_t16",
    preset: str = "fast",
    bf16: bool = True,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the blocks.")] = False,
    batch_size: int = 16,
    device: str = "cpu",
    record: Json = None,
) -> None:
    network = crt.create_model(model, pretrained=True).to(device)
    if compile:
        network.compile()
    extractor = CAMExtractor(network, **PRESETS[preset], batch_size=batch_size)
    chosen = list(ImageDataset.from_voc(voc, split, masks=True))[:photos]
    times: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16),
    ):
        places = {name: Path(folder, name) for name in ("stream", "one by one")}
        for place in places.values():
            place.mkdir()
        streamed(extractor, chosen[:4], places["stream"])  # warm-up
        for number, part in enumerate(track(list(parts(chosen)), "parts", transient=True)):
            ways = {
                "stream": partial(streamed, extractor, part, places["stream"]),
                "one by one": partial(one_by_one, extractor, part, places["one by one"]),
            }
            turns = dict(reversed(ways.items())) if number % 2 else ways
            alone = {"reading": partial(read, extractor, part), "writing": partial(rewrite, part, places["stream"])}
            for name, (taken,) in take_turns({**turns, **alone}, 1, device).items():
                times.setdefault(name, []).append(taken / len(part))
        share = different(chosen, *places.values())
    middle = medians(times)
    speed = {name: 1 / value for name, value in middle.items()}
    print(
        {name: f"{value:.2f} photos/s" for name, value in speed.items()}, f"masks differ at {share:.1e} of the pixels"
    )
    write_record(
        record,
        measure="data set, seconds a photo",
        model=model,
        preset=preset,
        bf16=bf16,
        compiled=compile,
        batch_size=batch_size,
        device=device,
        gpu=device_name(device),
        root=voc.name,
        list=split,
        photos=len(chosen),
        seconds=times,
        medians=middle,
        photos_per_second=speed,
        ratio=middle["one by one"] / middle["stream"],
        different_pixels=share,
    )


if __name__ == "__main__":
    typer.run(main)
