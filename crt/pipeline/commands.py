"""The commands that repeat each step of a run by itself."""

import os
import shlex
from pathlib import Path

from crt.pipeline.journal import Journal
from crt.pipeline.recipe import FitRecipe, default_start
from crt.pipeline.stages import BATCH_PATCHES

__all__ = ["repeat_commands"]


def repeat_commands(folder: Path, recipe: FitRecipe, source: str, journal: Journal) -> list[tuple[str, str]]:
    """(stage, command) of each step by itself: the commands where there is a verb, Python elsewhere.

    Args:
        folder: of the run.
        recipe: its settings.
        source: the options that name the data set.
        journal: knows the thresholds.
    """
    out, start = str(folder), str(recipe.start or default_start())
    whole = f"crt fit {source} --out {shlex.quote(out)} --start {shlex.quote(start)} --refine {recipe.refiner}"
    whole += f"{' --boundary' if recipe.boundary else ''} --segment {recipe.segment} --seed {recipe.seed}"
    if recipe.segmentation.arch != "crt":
        whole += f" --arch {recipe.segmentation.arch} --encoder {recipe.segmentation.encoder}"
    cam = (
        "from crt import data, pipeline, train\n"
        f"recipe = pipeline.FitRecipe(start={start!r}, seed={recipe.seed})\n"
        "photos = data.load_dataset(images=..., labels=...)\n"
        f"train.train_frozen(pipeline.load_start(recipe, photos.class_names), photos, {_path(folder, 'cam')!r},\n"
        f"                   recipe.frozen, seed={recipe.seed})"
    )
    found = [("everything", whole), ("cam", cam), ("masks", _pseudo(folder, source, "masks", recipe.refiner, journal))]
    if recipe.boundary:
        command = f"crt train refine {source} --masks {_quoted(folder, 'masks')} --recipe irn-lite0-voc9k"
        found.append(("boundary", f"{command} --out {_quoted(folder, 'boundary')}"))
        refiner = f"local-dir:{_path(folder, 'boundary', 'model')}"
        found.append(("masks-boundary", _pseudo(folder, source, "masks-boundary", refiner, journal)))
    masks = "masks-boundary" if recipe.boundary else "masks"
    if recipe.segment == "net":
        net = f"crt train segment {source} --masks {_quoted(folder, masks)} --out {_quoted(folder, 'segment')}"
        ours = recipe.segmentation.arch == "crt"
        other = f"--arch {recipe.segmentation.arch} --encoder {recipe.segmentation.encoder}"
        found.append(("segment", f"{net} {'--start ' + _quoted(folder, 'cam', 'model') if ours else other}"))
    else:
        epochs = journal.facts("segment").get("epochs", 3)
        found.append(("segment", _head(folder, masks, recipe, epochs)))
    use = f"crt segment NEW_PHOTOS --model local-dir:{_quoted(folder, 'model')} --out NEW_MASKS"
    return [*found, ("new photos", use)]


def _head(folder: Path, masks: str, recipe: FitRecipe, epochs: int) -> str:
    """The last stage on cached features, in Python; ``photos`` are those of the CAM stage."""
    return (
        "import crt, torch\n"
        "from crt.train.features import FeatureCache\n"
        "from crt.train.frozen import fold_background\n"
        "from crt.train.head import HeadRecipe, install_head, patch_masks, train_head\n"
        "from crt.train.objectness import Linear\n"
        f"model = crt.create_model({'local-dir:' + _path(folder, 'cam', 'model')!r}, pretrained=True)\n"
        f"cache = FeatureCache(model, photos, {_path(folder, 'cam', 'features')!r}, scale={recipe.frozen.view_scale})\n"
        f"settings = HeadRecipe(epochs={epochs}, batch_patches={BATCH_PATCHES}, weight_decay=0.01)\n"
        f"targets = patch_masks(cache, photos.with_masks({_path(folder, masks)!r}))\n"
        f"head = train_head(cache, settings, targets=targets, seed={recipe.seed})\n"
        "head = Linear(head.weight[:, :, 0, 0], head.bias)\n"
        "install_head(model, fold_background(head, torch.zeros(model.num_classes)))"
    )


def _pseudo(folder: Path, source: str, name: str, refiner: str, journal: Journal) -> str:
    low, high = journal.facts(name)["thresholds"]
    model = f"local-dir:{_quoted(folder, 'cam', 'model')}"
    command = f"crt pseudo {source} --model {model} --preset whole --refine {shlex.quote(refiner)}"
    return f"{command} --threshold {low},{high} --out {_quoted(folder, name)}"


def _path(folder: Path, *parts: str) -> str:
    return os.fspath(folder.joinpath(*parts))


def _quoted(folder: Path, *parts: str) -> str:
    return shlex.quote(_path(folder, *parts))
