"""Pseudo labels of patches, and the linear head that learns from them; no mask is involved."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crt.cam.spread import spread
from crt.train.crops import mix_seed
from crt.train.features import FeatureCache
from crt.train.margins import posterior
from crt.train.objectness import Linear, image_patches, object_map

__all__ = ["IGNORED", "fit_labels", "fit_patches", "label_by_head", "label_by_maps"]

IGNORED = -1
Watch = Callable[[Iterable[Any]], Iterable[Any]]
SHARDS = 8  # whose patches are shuffled together


def fit_labels(
    inputs: Tensor,
    targets: Tensor,
    *,
    steps: int,
    batch_size: int | None,
    lr: float,
    weight_decay: float,
    seed: int,
) -> Linear:
    """Multi-label classifier: binary cross entropy, AdamW, a cosine schedule.

    Args:
        inputs: (N, D) floats, one vector for each image.
        targets: (N, K), zeros and ones.
        steps: of the optimizer.
        batch_size: images in a step; None takes all.
        seed: of the order.
    """
    generator = torch.Generator().manual_seed(mix_seed("labels", seed))
    size = min(batch_size or len(inputs), len(inputs))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            order = (
                torch.arange(len(inputs)) if batch_size is None else torch.randperm(len(inputs), generator=generator)
            )
            for rows in order[: len(order) // size * size].split(size):
                yield inputs[rows], targets[rows]

    layer = _zeros(inputs.shape[1], targets.shape[1], bias=-3.0)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return _train(layer, batches(), steps, F.binary_cross_entropy_with_logits, optimizer, schedule)


def fit_patches(
    cache: FeatureCache,
    labels: Tensor,
    *,
    steps: int,
    batch_patches: int,
    lr: float,
    weight_decay: float,
    seed: int,
    watch: Watch = lambda items: items,
) -> Linear:
    """A head of K + 1 outputs, the background first: cross entropy on the patches that have a label.

    Args:
        cache: the features.
        labels: (T,) integers, one for each patch of the cache; ``IGNORED`` ones do not count.
        steps: of the optimizer (AdamW, one cycle).
        batch_patches: patches in a step.
        seed: of the order.
        watch: wraps the steps, for example in a progress bar.

    Raises:
        ValueError: no patch has a label.
    """
    if not (labels != IGNORED).any():
        raise ValueError("no patch has a pseudo label: the maps of all images are flat.")
    generator = torch.Generator().manual_seed(mix_seed("patches", seed))
    layer = _zeros(cache.means().shape[1], cache.targets.shape[1] + 1, bias=0.0)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=0.05)
    batches = _patch_batches(cache, labels, batch_patches, generator)
    return _train(layer, batches, steps, F.cross_entropy, optimizer, schedule, watch)


def _patch_batches(
    cache: FeatureCache, labels: Tensor, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end; the patches of a few shards, drawn anew each time, are shuffled together."""
    counts = [int(part.sum()) for part in cache.grids().prod(dim=1).split(cache.shard)]
    parts = labels.split(counts)
    while True:
        for some in torch.randperm(len(counts), generator=generator).split(SHARDS):
            xs, ys = [], []
            for number in some.tolist():
                sure = parts[number] != IGNORED
                xs.append(cache.shard_patches(number)[sure])
                ys.append(parts[number][sure].long())
            x, y = torch.cat(xs), torch.cat(ys)
            order = torch.randperm(len(x), generator=generator)
            whole = max(len(x) // size, 1) * size
            for rows in order[:whole].split(size) if len(x) else ():
                yield x[rows].float(), y[rows]


def _zeros(inputs: int, outputs: int, bias: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, bias)
    return layer


def _train(
    layer: nn.Linear,
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    watch: Watch = lambda items: items,
) -> Linear:
    for _ in watch(range(steps)):
        x, y = next(batches)
        loss = loss_of(layer(x), y)
        if not torch.isfinite(loss):
            raise ValueError("the loss is no longer finite; try a lower learning rate.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return Linear(layer.weight.detach().clone(), layer.bias.detach().clone())


def label_by_maps(
    cache: FeatureCache,
    classifier: Linear,
    objectness: Linear,
    *,
    power: float,
    floor: float,
    below: float,
    above: float,
    watch: Watch = lambda items: items,
) -> Tensor:
    """First labels: class maps relu(logit) times objectness, spread, divided by their maximum.

    Args:
        cache: the features.
        classifier: K outputs, of ``fit_labels`` on mean patches.
        objectness: of ``fit_objectness``.
        power: of the spreading.
        floor: see ``object_map``.
        below: a patch is background where all maps are below this.
        above: a patch belongs to the class of the highest map if that is above this; between the two it is ignored.
        watch: wraps the images, for example in a progress bar.

    Returns:
        (T,) int16: 0 background, class i as i + 1, ``IGNORED``.  An image without a class is all background.
    """
    parts = []
    for index, x in watch(image_patches(cache)):
        classes = cache.targets[index].nonzero()[:, 0]
        if not len(classes):
            parts.append(torch.zeros(len(x), dtype=torch.int16))
            continue
        maps = Linear(classifier.weight[classes], classifier.bias[classes])(x).relu().T
        maps = spread(maps * object_map(objectness, x, floor=floor), x, power=power)
        value, place = (maps / (maps.amax(dim=1, keepdim=True) + 1e-5)).max(dim=0)
        labels = torch.where(value > above, classes[place] + 1, torch.where(value < below, 0, IGNORED))
        parts.append(labels.to(torch.int16))
    return torch.cat(parts)


def label_by_head(
    cache: FeatureCache,
    head: Linear,
    *,
    power: float,
    confidence: float,
    watch: Watch = lambda items: items,
) -> Tensor:
    """New labels, the E step: what the head is sure of among the background and the classes of each image.

    Args:
        cache: the features.
        head, power: see ``crt.train.margins.posterior``.
        confidence: the probability that a label needs.
        watch: wraps the images, for example in a progress bar.

    Returns:
        (T,) int16, as of ``label_by_maps``.
    """
    parts = []
    for index, x in watch(image_patches(cache)):
        classes = cache.targets[index].nonzero()[:, 0]
        value, place = posterior(head, x, classes.tolist(), power).max(dim=0)
        outputs = torch.cat([classes.new_zeros(1), classes + 1])
        parts.append(torch.where(value > confidence, outputs[place], IGNORED).to(torch.int16))
    return torch.cat(parts)
