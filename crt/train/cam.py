"""The CAM stage: both branches on image-level labels, over accelerate (paper sections 3.3 and 4.1)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crt.data import LabelledPhotos
from crt.losses import dual_loss, mask_loss
from crt.models import CRT, CNNBranch, DualBranch, create_model
from crt.models.hub import read_checkpoint
from crt.train.loop import Progress, Run, make_optimizer
from crt.train.recipe import CAMRecipe

__all__ = ["build_branches", "train_cam"]


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
            the recipe's settings but its own architecture.
        seed: of the heads' random weights (and of all others, where none are loaded).

    Raises:
        ValueError: weights that do not fit, a ``start`` of other classes, or backbone weights beside a ``start``.
    """
    torch.manual_seed(seed)
    if start is not None:
        if backbone_checkpoint is not None:
            raise ValueError(f"weights of the ViT from {start} or from {backbone_checkpoint}, not both.")
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
    settings: Mapping[str, Any] | None = None,
    progress: Progress = lambda steps, first, total, status: steps,
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
        precision: "no" (float32) or "bf16"; None takes what `accelerate launch` was told, or else "no".
        compile: compile both backbones.
        save_every: steps between checkpoints.
        workers: processes that decode photos.
        settings: what else must be the same when the run goes on, a digest of the weights it began with for example.
        progress: wraps the steps; called with them, the first step, their total number, and a function that tells loss
            and speed so far.

    Returns:
        The trained ViT branch, in evaluation mode.

    Raises:
        ValueError: ``out`` holds a run with other settings or photos, a batch that does not divide among the processes
            or is larger than the data set, an unknown precision, a loss that is not finite.
        OSError: a photo that cannot be read, a checkpoint that cannot be written.
    """
    _check(recipe, photos)
    run = Run(photos, recipe, model.vit, seed=seed, precision=precision, workers=workers, progress=progress)
    device = run.accelerator.device

    def losses_of(network: Any, batch: list[Tensor], epoch: int) -> dict[str, Tensor]:
        images, targets, *masks = batch
        vit_maps, cnn_maps = run.forward(network, images)
        targets = targets.to(device)
        losses = dual_loss(
            vit_maps,
            cnn_maps,
            targets,
            (recipe.crop, recipe.crop),
            coupling=recipe.coupling if epoch >= recipe.coupling_from else 0.0,
            pool=recipe.pool,
            single_label=recipe.single_label,
        )._asdict()
        if masks:
            losses["mask"] = mask_loss(vit_maps, masks[0].to(device), targets)
            losses["total"] = losses["total"] + recipe.mask * losses["mask"]
        return losses

    optimizer = cam_optimizer(model, recipe)
    run.train(model, model, optimizer, losses_of, out, save_every=save_every, compile=compile, settings=settings)
    if run.accelerator.is_main_process:
        model.vit.save_pretrained(Path(out) / "model")
    return model.vit.eval()


def _check(recipe: CAMRecipe, photos: LabelledPhotos) -> None:
    """ValueError unless the photos suit the recipe."""
    if (recipe.mask > 0) != all(photo.mask is not None for photo in photos.photos):
        raise ValueError(f"the recipe's weight of masks is {recipe.mask}: masks are needed if it is above 0, else not.")
    if recipe.single_label and any(len(photo.labels) != 1 for photo in photos.photos):
        raise ValueError("the recipe is for photos of one class each (single_label); some have more labels.")


def cam_optimizer(model: DualBranch, recipe: CAMRecipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over backbones and heads."""
    heads = [p for name, p in model.named_parameters() if ".head." in name]
    bodies = [p for name, p in model.named_parameters() if ".head." not in name and p.requires_grad]
    return make_optimizer(bodies, heads, recipe)
