"""Hostile and damaged inputs from a seed, kills and full disks: how often the library breaks a promise.

python benchmarks/campaign.py --kind pictures --count 5000 --seed 1 --json docs/records/campaign_pictures.json

Kinds: pictures, tables, weights, configs, kills, disk (for root, who may mount).  An input is either read, and the
result is right, or refused with one line: an OSError, ValueError or TypeError of at most 1 500 printable characters.
All else is a fault, and printed.
"""

import hashlib
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import _hostile
import torch
import typer
from _runner import Json, save
from PIL import Image

import crt
from crt.cam import CAMExtractor
from crt.data import ImageDataset
from crt.images import image_size, open_image
from crt.masks import load_mask
from crt.models import CRT, BoundaryNet
from crt.models.hub import read_config
from crt.pseudo import make_pseudo_masks

TINY = {"tile": 64, "stride": 32, "backbone_args": {"embed_dim": 32, "depth": 2, "num_heads": 2}}
LONGEST = 1500
Found = dict[str, Any]


class Fault(Exception):
    """A result that is wrong."""


def tried(action: Callable[[], Any], found: Found) -> None:
    """Counts how an input ends; anything but a result or a short refusal is a fault."""
    start = time.perf_counter()
    try:
        action()
        outcome = "read"
    except (OSError, ValueError, TypeError) as error:
        text = str(error)
        outcome = "refused"
        found["longest_message"] = max(found.get("longest_message", 0), len(text))
        raw = isinstance(error, TypeError) and error.__traceback__ is not None and not text.endswith((".", "?"))
        if raw or len(text) > LONGEST or not text.isprintable():
            outcome = "fault"
            print(f"{type(error).__name__}: {text[:300]!r}\n{traceback.format_exc(limit=-3)}")
    except Exception:
        outcome = "fault"
        print(traceback.format_exc(limit=-6))
    found[outcome] = found.get(outcome, 0) + 1
    found["slowest_seconds"] = round(max(found.get("slowest_seconds", 0), time.perf_counter() - start), 2)


def pictures(rng: random.Random, count: int, folder: Path) -> Found:
    """Small pictures of all formats, nine of ten damaged: a uint8 tensor of the head's size, or a refusal."""
    found: Found = {}
    for _ in range(count):
        file = folder / "photo.jpg"
        file.write_bytes(_hostile.picture(rng))

        def look(file: Path = file) -> None:
            with suppress(OSError, ValueError):
                load_mask(file)
            image = open_image(file, max_side=rng.choice([None, 8, 100]))
            if image.dtype != torch.uint8 or image.shape[0] != 3:
                raise Fault(f"{image.dtype} {image.shape}")
            if max(image.shape) > 100 and max(image_size(file)) <= 100:
                raise Fault(f"{image.shape}, but {image_size(file)}")

        tried(look, found)
    return found


def tables(rng: random.Random, count: int, folder: Path) -> Found:
    """Half of them as people write them, which must be read as they are meant; half of them damaged."""
    found: Found = {}
    photos = folder / "photos"
    photos.mkdir()
    for file in _hostile.FILES:
        (photos / file).touch()
    for i in range(count):
        if i % 2:
            suffix, data = _hostile.table(rng)
            (folder / f"labels{suffix}").write_bytes(data)
            tried(lambda suffix=suffix: ImageDataset.from_table(photos, folder / f"labels{suffix}"), found)
            continue
        suffix, text, truth = _hostile.honest_table(rng)
        (folder / f"labels{suffix}").write_text(text, encoding="utf-8", newline="")

        def compare(suffix: str = suffix, truth: dict[str, set[str]] = truth, text: str = text) -> None:
            try:
                data = ImageDataset.from_table(photos, folder / f"labels{suffix}")
            except ValueError as error:
                raise Fault(f"refused: {error}\n{text}") from error
            read = {sample.name: {data.class_names[i] for i in sample.labels} for sample in data}
            if read != truth or set(data.class_names) != set(_hostile.WORDS):
                raise Fault(f"{read}, not {truth}\n{text}")

        tried(compare, found)
    return found


def _models(folder: Path) -> list[tuple[Path, Any]]:
    """Folders of small models, each with what loads it."""
    torch.manual_seed(0)
    CRT("vit_tiny_patch16_224", num_classes=2, class_names=["cat", "dog"], **TINY).save_pretrained(folder / "crt")
    BoundaryNet("lcnet_050").save_pretrained(folder / "boundary")
    loads = [(folder / "crt", lambda: crt.create_model(f"local-dir:{folder / 'crt'}", pretrained=True))]
    return [*loads, (folder / "boundary", lambda: BoundaryNet.from_pretrained(folder / "boundary"))]


def weights(rng: random.Random, count: int, folder: Path) -> Found:
    """Safetensors with damaged headers, types and values: what is loaded makes finite maps."""
    found: Found = {}
    models = [(place, load, (place / "model.safetensors").read_bytes()) for place, load in _models(folder)]
    photo = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    for i in range(count):
        place, load, good = models[i % len(models)]
        (place / "model.safetensors").write_bytes(_hostile.hostile_weights(good, rng))

        def look(load: Callable[[], Any] = load) -> None:
            model = load()
            if isinstance(model, CRT):
                with suppress(FloatingPointError):  # float32 ran over, which is said and not written
                    if not model.cam(photo, "cat", flip=False).isfinite().all():
                        raise Fault("maps are not finite")

        tried(look, found)
    return found


class _Evil:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.flag),)


def configs(rng: random.Random, count: int, folder: Path) -> Found:
    """Configurations with foreign keys, extreme values and paths of a pickle: none of them is opened."""
    found: Found = {}
    evil, flag = folder / "evil.pth", folder / "code-has-run"
    evil.write_bytes(pickle.dumps(_Evil(flag)))
    models = [(place, load, read_config(place / "config.json")) for place, load in _models(folder)]
    for i in range(count):
        place, load, good = models[i % len(models)]
        (place / "config.json").write_text(_hostile.hostile_config(good, evil, rng), encoding="utf-8")
        tried(load, found)
    found["code_run"] = int(flag.exists())
    found["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return found


def _photos(folder: Path, count: int = 24) -> ImageDataset:
    """Photos of noise, and a table of their labels."""
    (folder / "photos").mkdir(exist_ok=True)
    rows = ["file,labels"]
    for i in range(count):
        pixels = torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        Image.fromarray(pixels.numpy()).save(folder / "photos" / f"{i}.png")
        rows.append(f"{i}.png,{('cat', 'dog', 'cat;dog')[i % 3]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return ImageDataset.from_csv(folder / "photos", folder / "labels.csv")


def _model(classifier: str = "maps") -> CRT:
    torch.manual_seed(0)
    return CRT("vit_tiny_patch16_224", num_classes=2, class_names=["cat", "dog"], classifier=classifier, **TINY).eval()


def _mask(folder: Path, out: Path) -> None:
    report = make_pseudo_masks(CAMExtractor(_model(), flip=False), None, _photos(folder), out, threshold=0.4)
    assert not report.failed, report.failed


def _train(folder: Path, out: Path) -> None:
    from crt.models.dual import DualBranch
    from crt.train import train_cam
    from crt.train.recipe import CAMRecipe

    recipe = CAMRecipe(cnn=None, epochs=4, batch_size=4, lr=1e-3, warmup=0, crop=64, area=(0.5, 1.0))
    train_cam(DualBranch(_model(), None), _photos(folder), out, recipe, workers=0, save_every=3)


def _results(out: Path) -> dict[str, str]:
    """Digests of what a job leaves, without what tells when it ran."""
    files = [*out.rglob("*.png"), *out.rglob("model/model.safetensors")]
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _child(action: Callable[..., None], *arguments: Any, quiet: bool = True) -> multiprocessing.Process:
    def run() -> None:
        if quiet:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        action(*arguments)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    return child  # type: ignore[return-value]


def kills(rng: random.Random, count: int, folder: Path) -> Found:
    """Jobs of masks and trainings, killed at random times until they end: the results are those of a run not killed."""
    found: Found = {"kills": 0, "jobs": 0, "equal": 0, "leftovers": 0}
    actions = (_mask, _train)
    whole, seconds = {}, {}
    for action in actions:
        start = time.perf_counter()
        _child(action, folder, folder / action.__name__, quiet=False).join()
        whole[action], seconds[action] = _results(folder / action.__name__), time.perf_counter() - start
    while found["kills"] < count:
        action, out = actions[found["jobs"] % 2], folder / "killed"
        ended = False
        while not ended and found["kills"] < count:
            child = _child(action, folder, out)
            child.join(rng.uniform(0.05, 0.9) * seconds[action])
            ended = child.exitcode is not None
            if not ended:
                os.kill(child.pid or 0, signal.SIGKILL)
                found["kills"] += 1
            child.join()
        last = _child(action, folder, out, quiet=False)
        last.join()
        found["jobs"] += 1
        found["equal"] += _results(out) == whole[action] and last.exitcode == 0
        found["leftovers"] += len(list(out.rglob("*.part")))
        shutil.rmtree(out)
    found["fault"] = found["jobs"] - found["equal"] + found["leftovers"]
    return found


def disk(rng: random.Random, count: int, folder: Path) -> Found:
    """Jobs on a disk that is full, then on one with room: an error that names a file, nothing half, the same result."""
    found: Found = {"jobs": 0, "named": 0, "equal": 0, "leftovers": 0}
    mount = folder / "small"
    mount.mkdir()
    actions = (_mask, _train, _save)
    whole = {}
    for action in actions:
        _child(action, folder, folder / action.__name__, quiet=False).join()
        whole[action] = _results(folder / action.__name__)
    for i in range(count):
        action = actions[i % 3]
        size = rng.randint(8, 60) if action is _mask else rng.randint(100, 300)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", mount], check=True)
        try:
            told = folder / "told"
            told.unlink(missing_ok=True)
            _child(_telling, action, folder, mount / "out", told).join()
            text = told.read_text()
            found["jobs"] += 1
            found["named"] += "OSError" in text and str(mount) in text
            found["leftovers"] += len(list(mount.rglob("*.part")))
            subprocess.run(["mount", "-o", "remount,size=50m", mount], check=True)
            _child(action, folder, mount / "out", quiet=False).join()
            found["equal"] += _results(mount / "out") == whole[action]
            if "OSError" not in text or str(mount) not in text:
                print(f"{action.__name__}, {size} kB: {text}")
        finally:
            subprocess.run(["umount", mount], check=True)
    found["fault"] = 2 * found["jobs"] - found["named"] - found["equal"] + found["leftovers"]
    return found


def _save(_folder: Path, out: Path) -> None:
    _model().save_pretrained(out / "model")


def _telling(action: Callable[..., None], folder: Path, out: Path, told: Path) -> None:
    try:
        action(folder, out)
        told.write_text("no error")
    except Exception as error:
        told.write_text(f"{type(error).__mro__} {error}")


KINDS = {kind.__name__: kind for kind in (pictures, tables, weights, configs, kills, disk)}


def main(
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(KINDS)}.")],
    count: Annotated[int, typer.Option(help="Inputs, kills or full disks.")] = 500,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    json: Json = None,
) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = KINDS[kind](random.Random(f"{kind} {seed}"), count, Path(folder))
    found = {"fault": 0, **found}
    print({**found, "seconds": round(time.perf_counter() - start)})
    save(json, f"campaign of {kind}", seed=seed, kind=kind, count=count, **found)


if __name__ == "__main__":
    typer.run(main)
