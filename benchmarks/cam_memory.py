"""Peak memory of extraction against the photo's size, the batch of tiles and the number of photos.

python benchmarks/cam_memory.py --json docs/records/memory.json

Each point is measured in a process of its own: one scale, mirror image, photos square and seen at their own size.  The
plain baseline keeps all attention matrices of a view, so it is measured on small photos only.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from _timing import device_name, in_fresh_process, peak_memory
from cam_throughput import LABELS, build, photo_of, plain
from rich.progress import track

from crt.cam import CAMExtractor
from crt.evaluate.record import write_record

SIZES, PLAIN_SIZES, BATCHES, PHOTOS = (256, 512, 1024, 2048, 4096), (256, 512, 1024), (1, 4, 16, 64), (1, 8, 24)
MIDDLE, BATCH = 512, 16


def points() -> list[dict[str, Any]]:
    """What is measured, in the order of the table; no point twice."""
    wanted = [
        *(("plain", size, 0, 1) for size in PLAIN_SIZES),
        *(("ours", size, BATCH, 1) for size in SIZES),
        *(("ours", MIDDLE, batch, 1) for batch in BATCHES),
        *(("ours", MIDDLE, BATCH, photos) for photos in PHOTOS),
    ]
    return [dict(zip(("way", "size", "batch", "photos"), point, strict=True)) for point in dict.fromkeys(wanted)]


def measure(point: dict[str, Any], name: str, passes: int, device: str) -> dict[str, float]:
    """Memory at the peak of this process."""
    model, photo = build(name, passes, device), photo_of(point["size"], point["size"])
    if point["way"] == "plain":
        return peak_memory(lambda: plain(model, photo, (1.0,)), device)
    extractor = CAMExtractor(model, batch_size=point["batch"], max_side=None)

    def extract() -> None:
        for _ in extractor.stream((photo.clone(), LABELS[0]) for _ in range(point["photos"])):
            pass

    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        return peak_memory(extract, device)


def main(
    model: Annotated[str, typer.Option(help="A name of `crt models`.")] = "crt_vit_t16",
    passes: Annotated[int, typer.Option(help="0 is the plain transformer.")] = 0,
    device: str = "cpu",
    largest: Annotated[int, typer.Option(help="Leave out larger photos.")] = SIZES[-1],
    record: Annotated[Path | None, typer.Option("--json", help="Write the record here.")] = None,
    point: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    if point is not None:
        print(json.dumps(measure(json.loads(point), model, passes, device)))
        return
    shared, rows = ("--model", model, "--passes", str(passes), "--device", device), []
    todo = [point for point in points() if point["size"] <= largest]
    for wanted in track(todo, "points", transient=True):
        rows.append({**wanted, **in_fresh_process(__file__, *shared, "--point", json.dumps(wanted))})
        print(rows[-1], flush=True)
    write_record(
        record,
        measure="peak memory of extraction, MB",
        model=model,
        passes=passes,
        device=device,
        gpu=device_name(device),
        scales=[1.0],
        flip=True,
        bf16="ours alone",
        points=rows,
    )


if __name__ == "__main__":
    typer.run(main)
