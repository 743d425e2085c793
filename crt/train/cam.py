"""The CAM stage: both branches on image-level labels, over accelerate (paper sections 3.3 and 4.1)."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from crt.data import LabelledPhotos
from crt.models import CRT, CNNBranch, DualBranch, create_model, dual_loss
from crt.models._source import read_checkpoint
from crt.train.checkpoint import load_checkpoint, save_checkpoint
from crt.train.loop import Log, batches, make_optimizer, rates
from crt.train.mask_loss import mask_loss
from crt.train.photos import Crops, batch_plan
from crt.train.recipe import CAMRecipe

__all__ = ["build_branches", "train_cam"]

logger = logging.getLogger(__name__)


def build_branches(
    recipe: CAMRecipe,
    class_names: list[str],
    *,
    backbone_checkpoint: str | os.PathLike[str] | None = None,
    cnn_checkpoint: str | os.PathLike[str] | None = None,
    pretrained: bool = False,
    start: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> DualBranch:
    """The model of a recipe.

    Args:
        backbone_checkpoint, cnn_checkpoint: ImageNet weights of the two backbones, safetensors in timm's layout.
        pretrained: fetch those that are not given from timm.
        start: folder of a trained model, for example ``model`` of an earlier run: the ViT branch is that model, with
            the recipe's settings.
        seed: of the heads' random weights (and of all others, where none are loaded).

    Raises:
        ValueError: weights that do not fit, or a ``start`` of other classes.
    """
    torch.manual_seed(seed)
    if start is not None:
        vit = create_model(f"local-dir:{os.fspath(start)}", pretrained=True, **_settings_of(recipe))
        if list(vit.class_names or ()) != list(class_names):
            raise ValueError(f"{start} knows the classes {vit.class_names}, the photos' are {class_names}.")
    else:
        vit = create_model(
            recipe.model,
            class_names=class_names,
            backbone_checkpoint=backbone_checkpoint,
            pretrained_backbone=pretrained and backbone_checkpoint is None,
            **_settings_of(recipe),
        )
    if recipe.cnn is None:
        return DualBranch(vit, None)
    fetch = pretrained and cnn_checkpoint is None
    cnn = CNNBranch(recipe.cnn, num_classes=len(class_names), pretrained_backbone=fetch)
    if cnn_checkpoint is not None:
        cnn.load_backbone(read_checkpoint(cnn_checkpoint), str(cnn_checkpoint))
    return DualBranch(vit, cnn)


def _settings_of(recipe: CAMRecipe) -> dict[str, Any]:
    """What a recipe says of the ViT branch beside its architecture."""
    names = ("num_passes", "attention_power", "activation", "pool")
    return {name: getattr(recipe, name) for name in names}


def train_cam(
    model: DualBranch,
    photos: LabelledPhotos,
    out: str | os.PathLike[str],
    recipe: CAMRecipe,
    *,
    seed: int = 0,
    precision: str | None = None,
    compile: bool = False,
    save_every: int = 200,
    workers: int = 1,
    progress: Callable[[Iterable[Any], int, int], Iterable[Any]] = lambda steps, first, total: steps,
) -> CRT:
    """Trains both branches; the ViT branch ends up in ``out/model``.

    A run that was stopped goes on from ``out/checkpoint.safetensors`` when it is called again with the same arguments,
    and ends with the same weights as a run that was not stopped (same machine, same number of processes and threads).

    Args:
        model: both branches (``build_branches``).
        photos: the training photos.
        out: folder for checkpoint, log (JSON lines) and model; made if need be.
        recipe: the settings, for example ``PRESETS["paper"]``.
        seed: of crops and order.
        precision: "no" (float32) or "bf16"; None takes what `accelerate launch` was told.
        compile: compile both backbones.
        save_every: steps between checkpoints.
        workers: processes that decode photos.
        progress: wraps the steps; called with them, the first step and their total number.

    Returns:
        The trained ViT branch, in evaluation mode.

    Raises:
        ValueError: ``out`` holds a run with other settings or photos, a batch that does not divide among the processes
            or is larger than the data set, an unknown precision, a loss that is not finite.
        OSError: a photo that cannot be read, a checkpoint that cannot be written.
    """
    accelerator = Accelerator()
    precision = precision or accelerator.mixed_precision
    _check(recipe, photos, precision, accelerator.num_processes)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    plan = batch_plan(len(photos), recipe.batch_size, recipe.epochs, seed)
    settings = {**dataclasses.asdict(recipe), "seed": seed, "precision": precision, "data": photos.digest()}
    optimizer = _optimizer(model, recipe)
    checkpoint, first = out / "checkpoint.safetensors", 0
    if checkpoint.exists():
        first = load_checkpoint(checkpoint, model, optimizer, settings)
        logger.info("%s: goes on at step %d of %d", out, first, len(plan))
    loader = _loader(model.vit, photos, recipe, seed, plan[first:], accelerator, workers)
    model.train()
    wrapped, prepared = accelerator.prepare(model, optimizer)
    if compile:
        wrapped = torch.compile(wrapped)
    log = Log(out / "log.jsonl", first)
    all_batches = batches(loader)
    steps = progress(all_batches, first, len(plan)) if accelerator.is_main_process else all_batches
    for step, (images, targets, *masks) in enumerate(steps, first):
        epoch = plan[step][0][0]
        for group, rate in zip(optimizer.param_groups, rates(recipe, step, len(plan)), strict=True):
            group["lr"] = rate
        coupling = recipe.coupling if epoch >= recipe.coupling_from else 0.0
        with torch.autocast(accelerator.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            vit_maps, cnn_maps = wrapped(images.to(accelerator.device))
        size = (recipe.crop, recipe.crop)
        targets = targets.to(accelerator.device)
        losses = dual_loss(
            vit_maps, cnn_maps, targets, size, coupling=coupling, pool=recipe.pool, single_label=recipe.single_label
        )._asdict()
        if masks:
            losses["mask"] = mask_loss(vit_maps, masks[0].to(accelerator.device), targets)
            losses["total"] = losses["total"] + recipe.mask * losses["mask"]
        prepared.zero_grad(set_to_none=True)
        accelerator.backward(losses["total"])
        if recipe.clip is not None:
            accelerator.clip_grad_norm_(model.parameters(), recipe.clip)
        prepared.step()
        last = step + 1 == len(plan)
        if accelerator.is_main_process:
            log.add(step + 1, epoch, losses, recipe.batch_size)
            if last or (step + 1) % save_every == 0:
                save_checkpoint(checkpoint, model, optimizer, step + 1, settings)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        model.vit.save_pretrained(out / "model")
    return model.vit.eval()


def _check(recipe: CAMRecipe, photos: LabelledPhotos, precision: str, processes: int) -> None:
    """ValueError unless precision, photos and batch suit the recipe."""
    if precision not in ("no", "bf16"):
        raise ValueError(f"precision must be 'no' or 'bf16', got {precision!r}.")
    if (recipe.mask > 0) != all(photo.mask is not None for photo in photos.photos):
        raise ValueError(f"the recipe's weight of masks is {recipe.mask}: masks are needed if it is above 0, else not.")
    if recipe.single_label and any(len(photo.labels) != 1 for photo in photos.photos):
        raise ValueError("the recipe is for photos of one class each (single_label); some have more labels.")
    if recipe.batch_size % processes:
        raise ValueError(f"a batch of {recipe.batch_size} does not divide among {processes} processes.")


def _optimizer(model: DualBranch, recipe: CAMRecipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over backbones and heads."""
    heads = [p for name, p in model.named_parameters() if ".head." in name]
    bodies = [p for name, p in model.named_parameters() if ".head." not in name and p.requires_grad]
    return make_optimizer(bodies, heads, recipe)


def _loader(
    vit: CRT,
    photos: LabelledPhotos,
    recipe: CAMRecipe,
    seed: int,
    plan: list[list[tuple[int, int]]],
    accelerator: Accelerator,
    workers: int,
) -> DataLoader:
    """The crops of this process's share of each batch."""
    crops = Crops(photos, recipe, vit.config["mean"], vit.config["std"], seed)
    mine = [batch[accelerator.process_index :: accelerator.num_processes] for batch in plan]
    return DataLoader(crops, batch_sampler=mine, num_workers=workers, prefetch_factor=4 if workers else None)
