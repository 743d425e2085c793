"""The refinement stage: a boundary network on pseudo masks, over accelerate (IRN, Ahn et al., CVPR 2019, section 4)."""

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from crt.data import ImageDataset
from crt.losses import boundary_loss
from crt.losses.masks import sample_masks
from crt.models import BoundaryNet
from crt.models.backbones import timm_model
from crt.models.boundary_net import STRIDE, BoundaryMaps
from crt.models.hub import read_checkpoint
from crt.train.loop import Run, RunOptions
from crt.train.optim import make_optimizer
from crt.train.recipe import RefineRecipe

__all__ = ["build_boundary_net", "train_refine"]


def build_boundary_net(
    recipe: RefineRecipe,
    *,
    backbone_checkpoint: str | os.PathLike[str] | None = None,
    pretrained: bool = False,
    seed: int = 0,
) -> BoundaryNet:
    """The network of a recipe.

    Args:
        backbone_checkpoint: ImageNet weights of the backbone, safetensors in timm's layout.
        pretrained: fetch them from timm if they are not given.
        seed: of the heads' random weights (and of the backbone's, where none are loaded).

    Raises:
        ValueError, OSError: weights that do not fit, or cannot be found or fetched.
    """
    torch.manual_seed(seed)
    names = ("output_stride", "boundary_width", "displacement_width")
    model = BoundaryNet(recipe.backbone, **{name: getattr(recipe, name) for name in names})
    if backbone_checkpoint is not None:
        model.load_backbone(read_checkpoint(backbone_checkpoint), str(backbone_checkpoint))
    elif pretrained:
        weights = timm_model(recipe.backbone, pretrained=True).state_dict()
        model.load_backbone(weights, f"timm's {recipe.backbone}")
    return model


def train_refine(
    model: BoundaryNet,
    dataset: ImageDataset,
    out: str | os.PathLike[str],
    recipe: RefineRecipe,
    **options: Unpack[RunOptions],
) -> BoundaryNet:
    """Trains both heads; the network ends up in ``out/model``, for ``create_refiner("local-dir:OUT/model")``.

    An interrupted run resumes as that of ``train_cam`` does.

    Args:
        model: the network (``build_boundary_net``); its backbone stays as it is.
        dataset: the training images with masks (``with_masks``), in which 255 is unsure.
        out: folder for checkpoint, log (JSON lines) and model; made if need be.
        recipe: the settings, for example ``RECIPES["irn-paper"]``.
        options: seed, precision, compile, save_every, workers, settings, progress: see ``RunOptions``.

    Returns:
        The trained network, in evaluation mode.

    Raises:
        ValueError: images without masks, ``out`` holds a run with other settings or images, a batch that does not
            divide among the processes or is larger than the data set, an unknown precision, a loss that is not finite.
        OSError: an image that cannot be read, a checkpoint that cannot be written.
    """
    if not isinstance(recipe, RefineRecipe):
        raise TypeError(f"the refinement stage takes a RefineRecipe, got {type(recipe).__name__}.")
    if any(sample.mask is None for sample in dataset.samples):
        raise ValueError("the boundary network learns from masks; add them with dataset.with_masks(FOLDER).")
    run = Run(dataset, recipe, model, **options)

    def losses_of(network: Callable[[Tensor], BoundaryMaps], batch: list[Tensor], _epoch: int) -> dict[str, Tensor]:
        images, _, masks = batch
        maps, labels = run.forward(network, images), sample_masks(masks, STRIDE).to(run.accelerator.device)
        return boundary_loss(maps.boundary.float(), maps.displacement.float(), labels, radius=recipe.radius)._asdict()

    optimizer = make_optimizer(model.boundary_head.parameters(), model.displacement_head.parameters(), recipe)
    with run.folder(out) as folder:
        run.train(model, _Maps(model), optimizer, losses_of, folder)
        model.eval()
        if run.accelerator.is_main_process:
            model.save_pretrained(folder / "model")
        run.accelerator.wait_for_everyone()
    return model


class _Maps(nn.Module):
    """The network as training calls it."""

    def __init__(self, model: BoundaryNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> BoundaryMaps:
        return self.model.forward_maps(x)
