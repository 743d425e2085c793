"""The pseudo-mask job over very many tiny photos: what does not depend on the model.

python benchmarks/scale.py --count 100000 --json docs/records/scale.json

Measures the seconds until the first mask, masks a second, memory, bytes of masks and manifest, and the same after a
restart.  The photos are 16 x 16 pixels, links to a few files; the model is a random one of two blocks.
"""

import itertools
import os
import resource
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from _runner import Json, save
from PIL import Image

from crt.cam import CAMExtractor
from crt.data import ImageDataset, Sample
from crt.models import CRT
from crt.pseudo import make_pseudo_masks

LINKS = 20_000  # to one file; file systems allow about 65 000


def photos_in(folder: Path, count: int) -> ImageDataset:
    """Links to a few photos, a thousand a subfolder."""
    samples, source = [], folder
    for number in range(count):
        place = folder / f"{number // 1000:05d}"
        file = place / f"{number:09d}.png"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        if number % LINKS == 0:
            Image.fromarray(torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8).numpy()).save(file)
            source = file
        else:
            os.link(source, file)
        samples.append(Sample(file, f"{place.name}/{file.stem}", [number % 2]))
    return ImageDataset(samples, ["a", "b"])


def run(extractor: CAMExtractor, photos: ImageDataset, out: Path, stop: int) -> dict[str, Any]:
    """Makes ``stop`` masks; the seconds to the first, and masks a second after it."""
    start, first, last, made = time.perf_counter(), 0.0, 0.0, 0

    def watch(items: Iterable[Any], total: int) -> Iterable[Any]:
        nonlocal first, last, made
        for item in itertools.islice(items, stop):
            last = time.perf_counter() - start
            first, made = first or last, made + 1
            yield item
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        make_pseudo_masks(extractor, None, photos, out, threshold=0.3, progress=watch)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "first_mask_seconds": round(first, 2),
        "items_a_second": round((made - 1) / max(last - first, 1e-9), 1),
        "peak_memory_mb": round(memory),
    }


def main(
    count: Annotated[int, typer.Option(help="Photos.")] = 100_000,
    stop: Annotated[int, typer.Option(help="Masks before the job is interrupted, each time.")] = 1000,
    json: Json = None,
) -> None:
    torch.manual_seed(0)
    arguments = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    model = CRT("vit_tiny_patch16_224", num_classes=2, class_names=["a", "b"], tile=16, stride=16, num_passes=1,
                backbone_args=arguments).eval()  # fmt: skip
    extractor = CAMExtractor(model, flip=False)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        photos = photos_in(Path(folder) / "photos", count)
        found: dict[str, Any] = {"prepare_seconds": round(time.perf_counter() - start, 1)}
        out = Path(folder) / "out"
        found["fresh"] = run(extractor, photos, out, stop)
        found["resumed"] = run(extractor, photos, out, 2 * stop)
        masks = [file.stat().st_size for file in out.rglob("*.png")]
        found["masks"], found["mask_bytes"] = len(masks), round(sum(masks) / max(len(masks), 1))
        manifest = out / "manifest.jsonl"
        found["manifest_bytes_a_mask"] = round(manifest.stat().st_size / max(len(masks), 1))
    print(found)
    save(json, "scale of the pseudo-mask job", photos=count, threads=torch.get_num_threads(), **found)


if __name__ == "__main__":
    typer.run(main)
