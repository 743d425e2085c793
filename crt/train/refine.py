"""The refinement stage: a boundary network on pseudo masks, over accelerate (IRN, Ahn et al., CVPR 2019, section 4)."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from crt.data import LabelledPhotos
from crt.models import BoundaryMaps, BoundaryNet
from crt.models._foreign import timm_model
from crt.models._source import read_checkpoint
from crt.refine import boundary_loss
from crt.train.checkpoint import load_checkpoint, save_checkpoint
from crt.train.loop import Log, batches, make_optimizer, rates
from crt.train.photos import Crops, Key, batch_plan
from crt.train.recipe import RefineRecipe

__all__ = ["build_boundary_net", "train_refine"]

logger = logging.getLogger(__name__)
STRIDE = 4  # pixels to a cell of the network's maps

Progress = Callable[[Iterable[Any], int, int], Iterable[Any]]


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
    photos: LabelledPhotos,
    out: str | os.PathLike[str],
    recipe: RefineRecipe,
    *,
    seed: int = 0,
    precision: str | None = None,
    save_every: int = 200,
    workers: int = 1,
    progress: Progress = lambda steps, first, total: steps,
) -> BoundaryNet:
    """Trains both heads; the network ends up in ``out/model``, for ``create_refiner("local-dir:OUT/model")``.

    A run that was stopped goes on from ``out/checkpoint.safetensors`` when it is called again with the same arguments,
    and ends with the same weights as a run that was not stopped (same machine, same number of processes and threads).
    At the end the mean of the displacements over the training photos becomes the network's ``mean_shift``.

    Args:
        model: the network (``build_boundary_net``); its backbone stays as it is.
        photos: the training photos with masks (``LabelledPhotos.with_masks``), in which 255 is unsure.
        out: folder for checkpoint, log (JSON lines) and model; made if need be.
        recipe: the settings, for example ``REFINE_PRESETS["irn-paper"]``.
        seed: of crops and order.
        precision: "no" (float32) or "bf16"; None takes what `accelerate launch` was told.
        save_every: steps between checkpoints.
        workers: processes that decode photos.
        progress: wraps the steps, and then the batches of the mean shift; called with them, the first and their number.

    Returns:
        The trained network, in evaluation mode.

    Raises:
        ValueError: photos without masks, ``out`` holds a run with other settings or photos, a batch that does not
            divide among the processes or is larger than the data set, an unknown precision, a loss that is not finite.
        OSError: a photo that cannot be read, a checkpoint that cannot be written.
    """
    accelerator = Accelerator()
    precision = precision or accelerator.mixed_precision
    if precision not in ("no", "bf16"):
        raise ValueError(f"precision must be 'no' or 'bf16', got {precision!r}.")
    if any(photo.mask is None for photo in photos.photos):
        raise ValueError("the boundary network learns from masks; give photos with LabelledPhotos.with_masks.")
    if recipe.batch_size % accelerator.num_processes:
        raise ValueError(f"a batch of {recipe.batch_size} does not divide among {accelerator.num_processes} processes.")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    plan = batch_plan(len(photos), recipe.batch_size, recipe.epochs, seed)
    settings = {**dataclasses.asdict(recipe), "seed": seed, "precision": precision, "data": photos.digest()}
    optimizer = make_optimizer(model.boundary_head.parameters(), model.displacement_head.parameters(), recipe)
    checkpoint, first = out / "checkpoint.safetensors", 0
    if checkpoint.exists():
        first = load_checkpoint(checkpoint, model, optimizer, settings)
        logger.info("%s: goes on at step %d of %d", out, first, len(plan))
    crops = Crops(photos, recipe, model.config["mean"], model.config["std"], seed)
    run = _Run(accelerator, crops, precision == "bf16", workers, progress)
    model.train()
    wrapped, prepared = accelerator.prepare(_Maps(model), optimizer)
    log = Log(out / "log.jsonl", first)
    for step, (images, _, masks) in enumerate(run.batches(plan[first:], first, len(plan)), first):
        for group, rate in zip(optimizer.param_groups, rates(recipe, step, len(plan)), strict=True):
            group["lr"] = rate
        maps = run.maps(wrapped, images)
        labels = masks[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].to(accelerator.device)
        losses = boundary_loss(maps.boundary.float(), maps.displacement.float(), labels, radius=recipe.radius)
        prepared.zero_grad(set_to_none=True)
        accelerator.backward(losses.total)
        if recipe.clip is not None:
            accelerator.clip_grad_norm_(wrapped.parameters(), recipe.clip)
        prepared.step()
        if accelerator.is_main_process:
            log.add(step + 1, plan[step][0][0], losses._asdict(), recipe.batch_size)
            if step + 1 == len(plan) or (step + 1) % save_every == 0:
                save_checkpoint(checkpoint, model, optimizer, step + 1, settings)
    model.eval()
    model.mean_shift += run.mean_displacement(model, recipe)
    if accelerator.is_main_process:
        model.save_pretrained(out / "model")
    accelerator.wait_for_everyone()
    return model


class _Maps(nn.Module):
    """The network as training calls it."""

    def __init__(self, model: BoundaryNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> BoundaryMaps:
        return self.model.forward_maps(x)


@dataclasses.dataclass(frozen=True)
class _Run:
    """One process's share of the photos, and how it computes."""

    accelerator: Accelerator
    crops: Crops
    bf16: bool
    workers: int
    progress: Progress

    def batches(self, plan: list[list[Key]], first: int, total: int) -> Iterable[list[Tensor]]:
        """This process's crops of each batch; the main process shows how far it is."""
        mine = [batch[self.accelerator.process_index :: self.accelerator.num_processes] for batch in plan]
        prefetch = 4 if self.workers else None
        loader: DataLoader = DataLoader(
            self.crops, batch_sampler=mine, num_workers=self.workers, prefetch_factor=prefetch
        )
        steps = batches(loader)
        return self.progress(steps, first, total) if self.accelerator.is_main_process else steps

    def maps(self, network: nn.Module, images: Tensor) -> BoundaryMaps:
        with torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return network(images.to(self.accelerator.device))

    @torch.no_grad()
    def mean_displacement(self, model: BoundaryNet, recipe: RefineRecipe) -> Tensor:
        """(2,), the mean over a crop of every photo, as of one more epoch; the same in all processes."""
        keys = [(recipe.epochs, index) for index in range(len(self.crops))]
        plan = [keys[k : k + recipe.batch_size] for k in range(0, len(keys), recipe.batch_size)]
        if len(plan[-1]) < self.accelerator.num_processes:  # a process would have no photo
            plan.pop()
        network, total = _Maps(model), model.mean_shift.new_zeros(3)
        for images, *_ in self.batches(plan, 0, len(plan)):
            shifts = self.maps(network, images).displacement.float().mean(dim=(-2, -1))
            total += torch.cat([shifts.sum(dim=0), shifts.new_tensor([len(shifts)])])
        total = self.accelerator.reduce(total, reduction="sum")
        return total[:2] / total[2]
