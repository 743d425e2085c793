"""What a run will do and how long it may take, from one measured step of each stage."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from crt.cam.spread import spread
from crt.data import ImageDataset, Sample
from crt.images import open_image
from crt.models import CRT
from crt.pipeline.recipe import FitRecipe, default_start, load_start
from crt.pipeline.stages import BATCH_PATCHES, HEAD_STEPS, make_extractor
from crt.refine import create_refiner
from crt.train import build_boundary_net, build_segmenter, make_recipe
from crt.train.features import whole_features

__all__ = ["PlannedStage", "plan_fit"]

LOOKED = 60  # photos that the report looks at


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """A stage that will run.

    Attributes:
        name: also that of its folder in the run.
        text: what it does, in one line.
        seconds: how long it may take, from one measured step.
    """

    name: str
    text: str
    seconds: float


def plan_fit(
    dataset: ImageDataset,
    recipe: FitRecipe | None = None,
    *,
    device: torch.device | str = "cpu",
    force: bool = False,
) -> list[PlannedStage]:
    """The stages of a run, with times from one measured step of each; nothing is written.

    Args:
        dataset, recipe, device, force: see ``fit``.

    Raises:
        ValueError, OSError: what ``fit`` would raise before any work.
    """
    recipe = recipe or FitRecipe()
    recipe.check_data(dataset, force=force)
    model = load_start(recipe, dataset.class_names, device)
    shown = [sample for sample in dataset if sample.labels]
    sample, photos, scale = shown[len(shown) // 2], len(dataset), recipe.frozen.view_scale
    found, see = _features(model, sample, scale)
    patches, dim = found.shape[0], found.shape[1]
    step = _time(lambda: _linear_step(dim, len(dataset.class_names) + 1), 3)
    spreading = _time(lambda: spread(torch.rand(3, patches), found, power=8.0))
    frozen = recipe.frozen
    passes = 3 * (frozen.rounds + 1)  # first labels or next labels, and margins, over all photos
    cam = photos * see + (frozen.head_steps + frozen.rounds * frozen.round_steps) * step + passes * photos * spreading
    model.activation, model.attention_power, model.whole, model.spread = "softmax", 0.0, True, frozen.spread
    mask = _mask_time(model, sample, recipe.refiner)
    masks = (len(shown) + min(len(shown), 100)) * mask
    start = recipe.start or default_start()
    stages = [
        PlannedStage("cam", f"labels to class maps, on the frozen backbone of {start}", cam),
        PlannedStage("masks", f"maps, refined by {recipe.refiner}, to pseudo masks", masks),
    ]
    if recipe.boundary:
        stages.append(PlannedStage("boundary", "a boundary network from the pseudo masks", _boundary_time(photos)))
        walk = _mask_time(model, sample, "irn_lite0")
        text = "maps, refined by the boundary network, to pseudo masks"
        stages.append(PlannedStage("masks-boundary", text, (len(shown) + min(len(shown), 100)) * walk))
    if recipe.segment == "heads":
        steps = max(HEAD_STEPS, math.ceil(3 * patches * photos / BATCH_PATCHES))
        stages.append(PlannedStage("segment", "a head that needs no labels, from the masks", steps * step))
    else:
        name = "our transformer" if recipe.segmentation.arch == "crt" else recipe.segmentation.arch
        stages.append(PlannedStage("segment", f"{name}, trained on the masks", _net_time(recipe, dataset)))
    again = _mask_time(model, sample, "none")
    stages.append(PlannedStage("report", "pictures of each stage, and report.html", 2.5 * again * min(photos, LOOKED)))
    return stages


def _time(work: Callable[[], Any], times: int = 1) -> float:
    """Seconds of a step: the shortest of so many, after one that warms up."""
    work()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _features(model: CRT, sample: Sample, scale: float) -> tuple[Tensor, float]:
    """(N, D) patches of a photo, and how long they take."""
    image = open_image(sample.image, max_side=640).to(model.device).float() / 255
    size = [max(1, round(side * scale / model.patch)) * model.patch for side in image.shape[-2:]]
    x = F.interpolate(image[None], size, mode="bilinear")
    found = whole_features(model, x).patches.flatten(1).T.float().cpu()
    return found, _time(lambda: whole_features(model, x))


def _linear_step(dim: int, outputs: int) -> None:
    layer = torch.nn.Linear(dim, outputs)
    optimizer = torch.optim.AdamW(layer.parameters())
    F.cross_entropy(layer(torch.rand(BATCH_PATCHES, dim)), torch.zeros(BATCH_PATCHES, dtype=torch.long)).backward()
    optimizer.step()


def _mask_time(model: CRT, sample: Sample, refiner: str) -> float:
    extractor = make_extractor(model)
    network = None if refiner == "none" else create_refiner(refiner, pretrained=True, model=model).to(model.device)
    image = open_image(sample.image).to(model.device)
    return _time(lambda: extractor(image, [sample.labels])[0].refined(network))


def _boundary_time(photos: int) -> float:
    recipe = make_recipe("irn-lite0-voc9k")
    net = build_boundary_net(recipe)
    batch = torch.rand(recipe.batch_size, 3, recipe.crop, recipe.crop)

    def step() -> None:
        maps = net.forward_maps(batch)
        (maps.boundary.mean() + maps.displacement.mean()).backward()  # type: ignore[no-untyped-call]

    return _time(step) * recipe.epochs * (photos // recipe.batch_size)


def _net_time(recipe: FitRecipe, dataset: ImageDataset) -> float:
    settings = recipe.segmentation
    net: Any = build_segmenter(settings, dataset.class_names, seed=recipe.seed).train()
    batch = torch.rand(settings.batch_size, 3, settings.crop, settings.crop)
    forward = net.forward_maps if isinstance(net, CRT) else net
    step = _time(lambda: forward(batch).mean().backward())
    return step * settings.epochs * (len(dataset) // settings.batch_size)
