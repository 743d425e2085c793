"""The segmentation stage: pseudo masks in, a network that needs no labels out (the paper's third stage).

What keeps the noise of the masks out: pixels marked 255 do not count, the loss is clamped on noisy pixels (WeakTr), the
result is a moving average of the weights, crops differ in scale, place and color.  A recipe switches each of them.
"""

import copy
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from crt._messages import printable
from crt.data import ImageDataset
from crt.losses.segmentation import segmentation_loss
from crt.models import CRT, create_model
from crt.models.backbones import timm_model
from crt.models.hub import read_checkpoint
from crt.models.segmentation import SegmentationNet
from crt.train.loop import Run, RunOptions
from crt.train.optim import make_optimizer
from crt.train.recipe import SegmentRecipe

__all__ = ["build_segmenter", "train_segment"]

Segmenter = CRT | SegmentationNet


def build_segmenter(
    recipe: SegmentRecipe,
    class_names: list[str],
    *,
    start: str | os.PathLike[str] | None = None,
    backbone_checkpoint: str | os.PathLike[str] | None = None,
    pretrained: bool = False,
    seed: int = 0,
) -> Segmenter:
    """The network of a recipe.

    Args:
        class_names: names of the K classes.
        start: folder of a trained CRT to start from, for example ``model`` of the CAM stage (``arch="crt"`` only).
        backbone_checkpoint: ImageNet weights of the backbone or encoder, safetensors in timm's layout.
        pretrained: fetch them from timm if neither ``start`` nor a checkpoint is given.
        seed: of the random weights.

    Raises:
        ValueError: an unknown name, weights that do not fit, a ``start`` of other classes or for another network.
        OSError: weights that cannot be found or fetched.
    """
    torch.manual_seed(seed)
    if start is not None and backbone_checkpoint is not None:
        raise ValueError(f"weights come from {start} or from {backbone_checkpoint}, not both.")
    if recipe.arch == "crt":
        if start is None:
            fetch = pretrained and backbone_checkpoint is None
            return create_model(
                recipe.model,
                class_names=class_names,
                num_passes=0,
                backbone_checkpoint=backbone_checkpoint,
                pretrained_backbone=fetch,
            )
        model = create_model(f"local-dir:{os.fspath(start)}", pretrained=True)
        if list(model.class_names or ()) != list(class_names):
            raise ValueError(
                f"{printable(start)} knows other classes than the images: {printable(model.class_names)} and "
                f"{printable(class_names)}."
            )
        return model
    if start is not None:
        raise ValueError(f"start is for arch=crt, and the recipe has arch={recipe.arch}.")
    net = SegmentationNet(recipe.arch, recipe.encoder, num_classes=len(class_names), class_names=class_names)
    if backbone_checkpoint is not None:
        net.load_encoder(read_checkpoint(backbone_checkpoint), str(backbone_checkpoint))
    elif pretrained:
        name = recipe.encoder.removeprefix("tu-")
        net.load_encoder(timm_model(name, pretrained=True).state_dict(), f"timm's {name}")
    return net


def train_segment(
    model: Segmenter,
    dataset: ImageDataset,
    out: str | os.PathLike[str],
    recipe: SegmentRecipe,
    **options: Unpack[RunOptions],
) -> Segmenter:
    """Trains a network on pseudo masks; it ends up in ``out/model``, for ``crt.create_model("local-dir:OUT/model")``.

    A CRT learns its K class maps as logits against a background of 0, on whole crops, and is read so from then on
    (``activation="softmax"``); logits of whole images are those of the maps, pooled.  An interrupted run resumes as
    that of ``train_cam`` does.

    Args:
        model: the network (``build_segmenter``).
        dataset: the training images with masks (``with_masks``), in which 255 does not count.
        out: folder for checkpoint, log (JSON lines) and model; made if need be.
        recipe: the settings, for example ``RECIPES["segment"]``.
        options: seed, precision, compile, save_every, workers, settings, progress: see ``RunOptions``.

    Returns:
        The trained network (the moving average, if the recipe has one), in evaluation mode.

    Raises:
        ValueError: images without masks or another number of classes, ``out`` holds a run with other settings or
            images, a batch that does not divide among the processes or is larger than the data set, an unknown
            precision, a loss that is not finite.
        OSError: an image that cannot be read, a checkpoint that cannot be written.
    """
    _check(model, dataset, recipe)
    if isinstance(model, CRT):
        _let_classes_compete(model)
    run = Run(dataset, recipe, model, **options)
    device = run.accelerator.device
    if isinstance(model, SegmentationNet) and recipe.batch_size // run.accelerator.num_processes < 2:
        raise ValueError("batch normalization needs 2 images or more for each process; raise batch_size.")
    parts = nn.ModuleDict({"model": model})
    if recipe.ema:
        parts["ema"] = copy.deepcopy(model).requires_grad_(False).to(device)

    def losses_of(network: Callable[[Tensor], Tensor], batch: list[Tensor], _epoch: int) -> dict[str, Tensor]:
        images, _, masks = batch
        logits = run.forward(network, images)
        clamp = {"clamp_from": recipe.clamp_from, "window": recipe.clamp_window}
        return {"total": segmentation_loss(logits, masks.to(device), **clamp)}  # type: ignore[arg-type]

    def after_step(steps: int) -> None:
        if recipe.ema:
            _average(parts["ema"], model, min(recipe.ema, steps / (steps + 10)))  # the first steps count less

    with run.folder(out) as folder:
        run.train(parts, _Logits(model), _optimizer(model, recipe), losses_of, folder, after_step=after_step)
        result: Any = parts["ema"] if recipe.ema else model
        if run.accelerator.is_main_process:
            result.save_pretrained(folder / "model")
        run.accelerator.wait_for_everyone()
    return result.eval().requires_grad_(True)


class _Logits(nn.Module):
    """The network as training calls it: (B, 3, H, W) -> (B, K + 1, h, w) logits."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.model, SegmentationNet):
            return self.model(x)
        maps = self.model.forward_maps(x)
        return torch.cat([torch.zeros_like(maps[:, :1]), maps], dim=1)


@torch.no_grad()
def _average(mean: nn.Module, model: nn.Module, decay: float) -> None:
    """mean <- decay * mean + (1 - decay) * model; counters and other integers are copied."""
    for old, new in zip(mean.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new.to(old), 1 - decay)
        else:
            old.copy_(new)


def _let_classes_compete(model: CRT) -> None:
    """Makes a CRT read its maps as they are trained here."""
    model.activation, model.attention_power, model.whole = "softmax", 0.0, True
    model.seed_threshold = 0.5  # a class is likelier than the background
    model.pool, model.classifier_kind, model.classifier = 0.1, "maps", None  # one beside the maps would not be trained


def _check(model: Segmenter, dataset: ImageDataset, recipe: SegmentRecipe) -> None:
    """ValueError unless data set, recipe and network belong together."""
    if not isinstance(recipe, SegmentRecipe):
        raise TypeError(f"the segmentation stage takes a SegmentRecipe, got {type(recipe).__name__}.")
    if missing := sum(sample.mask is None for sample in dataset.samples):
        raise ValueError(f"{missing} of {len(dataset)} images have no mask; add them with dataset.with_masks(FOLDER).")
    if model.num_classes != len(dataset.class_names):
        raise ValueError(f"the network has {model.num_classes} classes, the images {len(dataset.class_names)}.")


def _optimizer(model: Segmenter, recipe: SegmentRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the backbone (or encoder), and over what comes after it."""
    body: Any = model.network.encoder if isinstance(model, SegmentationNet) else model.backbone
    bodies = {id(parameter) for parameter in body.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    heads = [parameter for parameter in trained if id(parameter) not in bodies]
    return make_optimizer([parameter for parameter in trained if id(parameter) in bodies], heads, recipe)
