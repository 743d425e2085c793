"""The pseudo-mask job over very many tiny photos: what does not depend on the model.

python benchmarks/scale.py --count 1000000 --json docs/records/scale.json

Measures the seconds until the photos are listed and until the first mask, masks a second, memory, bytes of masks and
manifest; then the same after a restart of a job of which all masks but the last are there.  The photos are 16 x 16
pixels, hard links to a few files, listed in a CSV; the model is a random one of two blocks; masks that are there at the
restart are hard links, too.  Each start is a process of its own.
"""

import itertools
import json as json_
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from _runner import Json, save
from PIL import Image

from crt.cam import CAMExtractor
from crt.data import ImageDataset
from crt.jobs.entry import Entry, Stamp
from crt.models import CRT
from crt.pseudo import make_pseudo_masks

LINKS = 20_000  # to one file; file systems allow about 65 000


def name_of(number: int) -> str:
    """A thousand photos a subfolder."""
    return f"{number // 1000:05d}/{number:09d}"


def make_photos(folder: Path, count: int) -> None:
    """``photos`` and ``labels.csv``."""
    with (folder / "labels.csv").open("w") as table:
        table.write("file,labels\n")
        for number in range(count):
            file = f"{folder}/photos/{name_of(number)}.png"
            if number % 1000 == 0:
                os.makedirs(os.path.dirname(file))
            if number % LINKS == 0:
                Image.fromarray(torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8).numpy()).save(file)
                source = file
            else:
                os.link(source, file)
            table.write(f"{name_of(number)}.png,{'ab'[number % 2]}\n")


def make_masks(folder: Path, numbers: range) -> None:
    """Masks and lines of the manifest, as a job that was interrupted has left them."""
    out = folder / "out"
    fingerprint = json_.loads((out / "settings.json").read_text())["fingerprint"]
    first = (out / f"{name_of(0)}.png").read_bytes()
    with (out / "manifest.jsonl").open("ab") as manifest:
        for place, number in enumerate(numbers):
            file = f"{out}/{name_of(number)}.png"
            os.makedirs(os.path.dirname(file), exist_ok=True)
            if place % LINKS == 0:
                Path(file).write_bytes(first)
                source, mask = file, Stamp.of(Path(file))
            else:
                os.link(source, file)
            if place == 0 or number % LINKS == 0:
                photo = Stamp.of(folder / "photos" / f"{name_of(number)}.png")
            manifest.write(Entry(name_of(number), [number % 2], photo, mask).line(fingerprint))


def memory_mb() -> int:
    """Of this process, now."""
    return round(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)


def run(folder: Path, stop: int) -> dict[str, Any]:
    """Makes ``stop`` masks in a fresh process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    arguments = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    model = CRT("vit_tiny_patch16_224", num_classes=2, class_names=["a", "b"], tile=16, stride=16, num_passes=1,
                backbone_args=arguments).eval()  # fmt: skip
    found: dict[str, Any] = {"memory_mb": memory_mb()}
    times: list[float] = []

    def watch(items: Iterable[Any], total: int) -> Iterable[Any]:
        for item in itertools.islice(items, stop):
            if not times:
                found["memory_mb_first_mask"] = memory_mb()
                found["first_mask_cpu_seconds"] = round(time.process_time() - used, 1)
            times.append(time.perf_counter() - start)
            yield item
        found["memory_mb_end"] = memory_mb()
        raise KeyboardInterrupt

    start, used = time.perf_counter(), time.process_time()
    photos = ImageDataset.from_csv(folder / "photos", folder / "labels.csv")
    found |= {"list_seconds": round(time.perf_counter() - start, 1), "memory_mb_listed": memory_mb()}
    found["list_cpu_seconds"] = round(time.process_time() - used, 1)
    with suppress(KeyboardInterrupt):
        extractor = CAMExtractor(model, flip=False)
        make_pseudo_masks(extractor, None, photos, folder / "out", threshold=0.3, progress=watch)
    speed = (len(times) - 1) / max(times[-1] - times[0], 1e-9)
    return {**found, "first_mask_seconds": round(times[0], 1), "items_a_second": round(speed, 1)}


def main(
    count: Annotated[int, typer.Option(help="Photos.")] = 1_000_000,
    stop: Annotated[int, typer.Option(help="Masks that are made at each start.")] = 500,
    json: Json = None,
) -> None:
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place), Path(place, "out")
        start = time.perf_counter()
        make_photos(folder, count)
        found["prepare_seconds"] = round(time.perf_counter() - start, 1)
        apart = {"max_workers": 1, "mp_context": multiprocessing.get_context("spawn"), "max_tasks_per_child": 1}
        with ProcessPoolExecutor(**apart) as processes:
            found["fresh"] = processes.submit(run, folder, stop).result()
            print(found, flush=True)
            masks = [file.stat().st_size for file in out.rglob("*.png")]
            found["mask_bytes"] = round(sum(masks) / len(masks))
            found["manifest_bytes_a_mask"] = round((out / "manifest.jsonl").stat().st_size / len(masks))
            make_masks(folder, range(len(masks), count - stop))
            found["masks_at_restart"] = count - stop
            found["resumed"] = processes.submit(run, folder, stop).result()
    print(found)
    save(json, "scale of the pseudo-mask job", photos=count, threads=1, **found)


if __name__ == "__main__":
    typer.run(main)
