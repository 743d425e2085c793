"""The stages of a run, each a plain call of the public function that does the work."""

import copy
import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from crt._files import tensors_digest
from crt._messages import printable
from crt.cam import PRESETS, CAMExtractor
from crt.data import ImageDataset
from crt.models import CRT, SegmentationNet, create_model
from crt.models.boundary_net import BoundaryNet
from crt.pipeline.journal import Journal
from crt.pipeline.recipe import FitRecipe, load_start
from crt.pseudo import make_pseudo_masks
from crt.pseudo.thresholds import find_thresholds
from crt.refine import create_refiner
from crt.train import build_segmenter, make_recipe, train_frozen, train_refine, train_segment
from crt.train.features import FeatureCache
from crt.train.frozen import fold_background
from crt.train.head import HeadRecipe, install_head, patch_masks, train_head
from crt.train.loop import Progress
from crt.train.objectness import Linear

__all__ = ["HEAD_STEPS", "Stages", "make_extractor"]

HEAD_STEPS = 1500  # of the last head, at least: few photos are seen more often
BATCH_PATCHES = 4096
MOST_EPOCHS = 100
HELD = 100_000_000  # numbers of patches' targets that are kept in memory

Model = CRT | SegmentationNet


@dataclasses.dataclass
class Stages:
    """A run on its way: what goes in, where it is, and its journal."""

    dataset: ImageDataset
    folder: Path
    recipe: FitRecipe
    journal: Journal
    device: torch.device
    progress: Progress

    def cam(self) -> CRT:
        """Labels -> a model whose maps compete with the background, on frozen features."""
        recipe, folder = self.recipe, self.folder / "cam"
        model = load_start(recipe, self.dataset.class_names, self.device)
        settings = {
            "data": self.dataset.digest(),
            "start": tensors_digest(model.backbone.state_dict()),
            "frozen": dataclasses.asdict(recipe.frozen),
            "seed": recipe.seed,
        }
        with self.journal.stage("cam", settings) as needed:
            if needed:
                folder.mkdir(parents=True, exist_ok=True)
                options: Any = {"seed": recipe.seed, "progress": self.progress}  # ``fit`` has checked the labels
                train_frozen(model, self.dataset, folder, recipe.frozen, force=True, **options)
        return self._load(folder / "model")

    def masks(self, model: CRT, name: str, refiner: str, after: str) -> ImageDataset:
        """Maps -> refined -> pseudo masks in the folder ``name``; returns the photos with them."""
        folder, extractor = self.folder / name, make_extractor(model)
        with self.journal.stage(name, {"refiner": _portable(refiner), "after": self._digest(after)}) as needed:
            if needed:
                network = None if refiner == "none" else create_refiner(refiner, pretrained=True, model=model)
                network = network if network is None else network.to(self.device)
                facts = self.journal.facts(name)
                if "thresholds" not in facts:
                    progress = self._counting("thresholds")
                    facts["thresholds"] = list(find_thresholds(extractor, network, self.dataset, progress=progress))
                    self.journal.save()
                low, high = facts["thresholds"]
                report = make_pseudo_masks(
                    extractor,
                    network,
                    self.dataset,
                    folder,
                    threshold=(low, high),
                    process=(0, 1),
                    progress=self._counting("pseudo masks"),
                )
                if report.failed:
                    file, reason = report.failed[0]
                    raise ValueError(
                        f"{len(report.failed)} photos have no mask; the first, {printable(file)}: {printable(reason)}."
                    )
        return self.dataset.with_masks(folder)

    def boundary(self, masked: ImageDataset) -> str:
        """Pseudo masks -> a boundary network, which starts from the bundled one; returns it as a refiner."""
        folder = self.folder / "boundary"
        settings = make_recipe("irn-lite0-voc9k")
        with self.journal.stage(
            "boundary", {"recipe": dataclasses.asdict(settings), "after": self._digest("masks")}
        ) as do:
            if do:
                walk: Any = create_refiner("irn_lite0", pretrained=True)
                net: BoundaryNet = walk.boundary  # its heads are trained further
                train_refine(
                    net, masked, folder, settings, seed=self.recipe.seed, progress=self.progress, save_every=50
                )
        return f"local-dir:{folder / 'model'}"

    def segment(self, model: CRT, masked: ImageDataset, after: str) -> Model:
        """Masks -> the model that needs no labels."""
        folder, recipe = self.folder / "segment", self.recipe
        settings: dict[str, Any] = {"segment": recipe.segment, "after": self._digest(after)}
        if recipe.segment == "net":
            settings = {**settings, "recipe": dataclasses.asdict(recipe.segmentation)}
            settings["encoder"] = recipe.encoder_checkpoint and os.fspath(recipe.encoder_checkpoint)
        with self.journal.stage("segment", settings) as needed:
            if needed and recipe.segment == "net":
                self._train_net(masked, folder)
            elif needed:
                self._train_heads(copy.deepcopy(model), masked).save_pretrained(folder / "model")
        return self._load(folder / "model")

    def _train_net(self, masked: ImageDataset, folder: Path) -> None:
        recipe = self.recipe
        ours = recipe.segmentation.arch == "crt"
        net = build_segmenter(
            recipe.segmentation,
            masked.class_names,
            start=self.folder / "cam" / "model" if ours else None,
            backbone_checkpoint=recipe.encoder_checkpoint,
            pretrained=not ours,
            seed=recipe.seed,
        )
        settings = {"start": tensors_digest(net.state_dict())}
        options: Any = {"seed": recipe.seed, "settings": settings, "save_every": 50, "progress": self.progress}
        train_segment(net, masked, folder, recipe.segmentation, **options)

    def _train_heads(self, model: CRT, masked: ImageDataset) -> CRT:
        """A new head on the features of the CAM stage, each patch taught by the share of its sure pixels."""
        scale = self.recipe.frozen.view_scale
        cache = FeatureCache(model, self.dataset, self.folder / "cam" / "features", scale=scale, progress=self.progress)
        targets = patch_masks(cache, masked)
        patches = int(cache.grids().prod(dim=1).sum())
        if patches * (len(masked.class_names) + 1) < HELD:  # few photos are seen many times
            targets = functools.lru_cache(maxsize=None)(targets)
        epochs = min(MOST_EPOCHS, max(3, math.ceil(HEAD_STEPS * BATCH_PATCHES / patches)))
        recipe = HeadRecipe(epochs=epochs, batch_patches=BATCH_PATCHES, weight_decay=0.01)
        head = train_head(cache, recipe, targets=targets, seed=self.recipe.seed)
        flat = Linear(head.weight[:, :, 0, 0], head.bias)  # type: ignore[arg-type]
        before = Linear(torch.zeros_like(flat.weight), _prior(cache, masked))
        losses = {"epochs": epochs, **_losses(cache, masked, {"before": before, "after": flat})}
        self.journal.facts("segment").update(losses)
        install_head(model, fold_background(flat, torch.zeros(len(masked.class_names))))
        return model

    def _counting(self, what: str) -> Callable[[Iterable[Any], int], Iterable[Any]]:
        """The progress of a job that starts from nothing."""
        return lambda items, total: self.progress(items, 0, total, lambda: what)

    def _load(self, folder: Path) -> Any:
        return create_model(f"local-dir:{folder}", pretrained=True).to(self.device)

    def _digest(self, name: str) -> str:
        """Of the settings of a stage, on which the next depends."""
        return hashlib.sha256(json.dumps(self.journal.stages[name]["settings"]).encode()).hexdigest()


def _portable(refiner: str) -> str:
    """A refiner's name without the place of the run, which may move."""
    return "boundary network" if refiner.startswith("local-dir:") else refiner


def make_extractor(model: CRT) -> CAMExtractor:
    """How photos are seen in all stages: at once, by the preset ``whole``."""
    return CAMExtractor(model, **PRESETS["whole"])


def _prior(cache: FeatureCache, masked: ImageDataset) -> Tensor:
    """(K + 1,) logarithms of the shares of background and classes: what a head knows that sees nothing."""
    targets = patch_masks(cache, masked)
    total = sum((targets(i).sum(dim=(1, 2)) for i in _some(len(cache))), torch.zeros(len(masked.class_names) + 1))
    return (total / total.sum().clamp_min(1e-6)).clamp_min(1e-6).log()


@torch.no_grad()
def _losses(cache: FeatureCache, masked: ImageDataset, heads: dict[str, Linear]) -> dict[str, float]:
    """The mean cross entropy of each head on the patches of some photos."""
    targets = patch_masks(cache, masked)
    sums, count = dict.fromkeys(heads, 0.0), 0
    for index in _some(len(cache)):
        wanted = targets(index).flatten(1).T
        sure = wanted.sum(dim=1) > 0
        x = cache[index].patches.flatten(1).T[sure]
        count += len(x)
        for name, head in heads.items():
            sums[name] += float(F.cross_entropy(head(x), wanted[sure], reduction="sum"))
    return {name: round(value / max(count, 1), 4) for name, value in sums.items()}


def _some(count: int, most: int = 200) -> range:
    """At most so many indices, evenly spread."""
    return range(0, count, max(1, -(-count // most)))
