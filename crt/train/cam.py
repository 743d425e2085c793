"""The CAM stage: both branches on image-level labels, over accelerate (paper sections 3.3 and 4.1)."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from crt._messages import printable
from crt.data import ImageDataset
from crt.jobs.peers import Peers
from crt.losses import dual_loss, mask_loss
from crt.models import CRT, create_model
from crt.models.cnn import CNNBranch
from crt.models.dual import DualBranch
from crt.models.hub import read_checkpoint
from crt.train.features import FeatureCache
from crt.train.head import HeadRecipe, install_head, train_head
from crt.train.loop import Run, RunOptions, make_accelerator
from crt.train.optim import make_optimizer
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
    dataset: ImageDataset,
    out: str | os.PathLike[str],
    recipe: CAMRecipe,
    *,
    force: bool = False,
    **options: Unpack[RunOptions],
) -> CRT:
    """Trains both branches; the ViT branch ends up in ``out/model``.

    An interrupted run resumes from ``out/checkpoint.safetensors`` when it is called again with the same arguments, and
    ends with the same weights as a run that was never interrupted (same machine, same number of processes and threads).

    Args:
        model: both branches (``build_branches``).
        dataset: the training images.
        out: folder for checkpoint, log (JSON lines) and model; made if need be.
        recipe: the settings, for example ``RECIPES["paper"]``.
        force: train although a class is in all images or in none, with a warning.
        options: seed, precision, compile, save_every, workers, settings, progress: see ``RunOptions``.

    Returns:
        The trained ViT branch, in evaluation mode.

    Raises:
        ValueError: a class that all images show, or none (``ImageDataset.check_trainable``); ``out`` holds a run with
            other settings or images; a batch that does not divide among the processes or is larger than the data set;
            an unknown precision; a loss that is not finite.
        OSError: an image that cannot be read, a checkpoint that cannot be written.
    """
    _check(recipe, dataset)
    dataset.check_trainable(force=force or recipe.mask > 0)
    if recipe.freeze_backbone:
        return _train_frozen(model.vit, dataset, Path(out), recipe, options)
    run = Run(dataset, recipe, model.vit, **options)
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

    with run.folder(out) as folder:
        run.train(model, model, cam_optimizer(model, recipe), losses_of, folder)
        if run.accelerator.is_main_process:
            model.vit.save_pretrained(folder / "model")
    return model.vit.eval()


def _train_frozen(vit: CRT, dataset: ImageDataset, out: Path, recipe: CAMRecipe, options: RunOptions) -> CRT:
    """Trains the head alone, on features kept in ``out/features``; an interrupted run resumes at the next shard."""
    progress: dict[str, Any] = {"progress": options["progress"]} if "progress" in options else {}
    vit = vit.to(make_accelerator().device)
    cache = FeatureCache(vit, dataset, out / "features", scale=recipe.view_scale, **progress)
    settings = HeadRecipe(
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        lr=recipe.lr * recipe.head_factor,
        weight_decay=recipe.weight_decay,
        pool=recipe.pool,
    )
    peers = Peers.from_environment()
    install_head(vit, train_head(cache, settings, force=True, seed=options.get("seed", 0)))  # the same in each process
    if peers.rank == 0:
        vit.save_pretrained(out / "model")
    peers.finish()
    return vit.eval()


def _check(recipe: CAMRecipe, dataset: ImageDataset) -> None:
    """ValueError unless the data set suits the recipe."""
    if not isinstance(recipe, CAMRecipe):
        raise TypeError(f"the CAM stage takes a CAMRecipe, got {type(recipe).__name__}.")
    if (recipe.mask > 0) != all(sample.mask is not None for sample in dataset.samples):
        raise ValueError(f"the recipe's weight of masks is {recipe.mask}: masks are needed if it is above 0, else not.")
    others = [sample for sample in dataset.samples if len(sample.labels) != 1]
    if recipe.single_label and others:
        negatives = sum(not sample.labels for sample in others)
        raise ValueError(
            f"the recipe is for images of one class each (single_label=true), but {negatives} of {len(dataset)} show "
            f"none of the classes and {len(others) - negatives} show several; the first is {printable(others[0].name)}."
        )


def cam_optimizer(model: DualBranch, recipe: CAMRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over backbones and heads."""
    heads = [p for name, p in model.named_parameters() if ".head." in name]
    bodies = [p for name, p in model.named_parameters() if ".head." not in name and p.requires_grad]
    return make_optimizer(bodies, heads, recipe)
