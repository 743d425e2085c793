"""Photos a second of the CAM stage's training step: both branches, their loss, gradients, the optimiser's step.

python benchmarks/train_step.py --json docs/records/train_step.json

The library in float32, in bfloat16 and (--compile) compiled, against the step written plainly in float32: attention
matrices made and kept, both maps upsampled before they are subtracted.  Random crops, random weights; no reading.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
import typer
from _baseline import transformer
from _runner import Json
from _timing import device_name, medians, take_turns
from torch import Tensor
from torch.nn import functional as F

from crt.data import VOC_CLASSES
from crt.evaluate.record import write_record
from crt.losses import dual_loss
from crt.models.dual import DualBranch
from crt.train import build_branches, make_recipe
from crt.train.cam import cam_optimizer
from crt.train.recipe import CAMRecipe


def plain_loss(model: DualBranch, images: Tensor, targets: Tensor, recipe: CAMRecipe) -> Tensor:
    """The loss of both branches on crops of one tile, written out."""
    vit, _ = transformer(model.vit, images)
    total = F.multilabel_soft_margin_loss(vit.mean(dim=(2, 3)), targets)
    if model.cnn is not None:
        cnn = model.cnn.forward_maps(images if model.scale is None else images * model.scale + model.shift)
        total = total + F.multilabel_soft_margin_loss(cnn.mean(dim=(2, 3)), targets)
        size = tuple(images.shape[2:])
        both = [F.interpolate(maps, size, mode="bilinear", align_corners=True) for maps in (vit, cnn)]
        total = total + recipe.coupling * (both[0] - both[1]).abs().mean()
    return total


def library_loss(
    network: Callable[[Tensor], Any], images: Tensor, targets: Tensor, recipe: CAMRecipe, bf16: bool
) -> Tensor:
    """As ``train_cam`` computes it."""
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
        vit, cnn = network(images)
    size = (images.shape[2], images.shape[3])
    return dual_loss(vit, cnn, targets, size, coupling=recipe.coupling, pool=recipe.pool).total


def step(loss_of: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> float:
    loss = loss_of()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def main(
    preset: Annotated[str, typer.Option(help="A recipe of `crt train cam` whose crop is one tile.")] = "t16-voc9k",
    batch: Annotated[int | None, typer.Option(help="Photos a step; none: the recipe's.")] = None,
    repeats: int = 5,
    compile: Annotated[bool, typer.Option("--compile", help="Also compiled, in bfloat16.")] = False,
    device: str = "cpu",
    record: Json = None,
) -> None:
    recipe = make_recipe(preset)
    start = build_branches(recipe, list(VOC_CLASSES)).to(device).train()
    if recipe.crop != start.vit.tile or recipe.pool != 1 or recipe.single_label:
        raise typer.BadParameter(f"{preset} is no recipe of multi-label crops of one tile.")
    count = batch or recipe.batch_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, recipe.crop, recipe.crop, generator=generator).to(device)
    targets = (torch.rand(count, len(VOC_CLASSES), generator=generator) < 0.1).float().to(device)
    ways: dict[str, Callable[[], float]] = {}
    for name in ["plain", "ours float32", "ours bfloat16", *(["compiled bfloat16"] if compile else [])]:
        model = copy.deepcopy(start)
        if name == "plain":
            loss_of = partial(plain_loss, model, images, targets, recipe)
        else:
            network = torch.compile(model) if name.startswith("compiled") else model
            loss_of = partial(library_loss, network, images, targets, recipe, name.endswith("bfloat16"))
        ways[name] = partial(step, loss_of, cam_optimizer(model, recipe))
    losses = {name: way() for name, way in ways.items()}  # the first step, the same for all; and the warm-up
    error = abs(losses["ours float32"] - losses["plain"]) / abs(losses["plain"])
    times = take_turns(ways, repeats, device)
    middle = medians(times)
    speed = {name: count / value for name, value in middle.items()}
    print({name: f"{value:.2f} photos/s" for name, value in speed.items()}, f"first loss: {error:.1e} apart")
    write_record(
        record,
        measure="step of the CAM stage, seconds",
        preset=preset,
        batch=count,
        device=device,
        gpu=device_name(device),
        repeats=repeats,
        seconds=times,
        medians=middle,
        photos_per_second=speed,
        times_plain={name: middle["plain"] / value for name, value in middle.items()},
        first_losses=losses,
        relative_error=error,
    )


if __name__ == "__main__":
    typer.run(main)
