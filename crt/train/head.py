"""Heads on cached features: a 1 x 1 convolution learned from labels, or from masks at patch resolution.

No backbone runs, so a head takes minutes on two cores.  Linear heads are meant: on pseudo labels, heads with more
capacity learn the noise.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crt.cam.functional import pool_maps
from crt.data import ImageDataset
from crt.models import CRT
from crt.train.crops import mix_seed, read_mask
from crt.train.features import FeatureCache
from crt.train.recipe import Settings

__all__ = ["HeadRecipe", "install_head", "patch_masks", "train_head"]


@dataclass(frozen=True)
class HeadRecipe(Settings):
    """Settings of a head on cached features.

    Attributes:
        epochs: passes over the features; from labels, 20 is usual, from masks 3.
        batch_size: images per step (labels).
        batch_patches: patches per step (masks).
        lr, weight_decay: of AdamW; the rate rises over the first twentieth of the steps and then falls to 0.
        pool: share of an image's patches, the highest, whose mean is the class's logit (labels).
        standardize: bring each feature to mean 0 and deviation 1 for the training; it learns faster, and overfits
            faster.
        label_smoothing: share of the target spread over all classes (masks).
        clamp: share of a step's patches, those of the lowest loss, that count; 1 counts all (masks).
        ema: decay of the moving average of the weights that becomes the head; 0 takes the last weights.
    """

    epochs: int = 20
    batch_size: int = 256
    batch_patches: int = 4096
    lr: float = 2e-3
    weight_decay: float = 1e-3
    pool: float = 1.0
    standardize: bool = False
    label_smoothing: float = 0.0
    clamp: float = 1.0
    ema: float = 0.0


def train_head(
    cache: FeatureCache,
    recipe: HeadRecipe | None = None,
    *,
    targets: Callable[[int], Tensor] | None = None,
    num_outputs: int | None = None,
    force: bool = False,
    seed: int = 0,
) -> nn.Conv2d:
    """Trains a linear head; the same arguments give the same weights.

    Without ``targets`` the labels of the data set are learned, as a multi-label problem of mean-pooled patches; with
    them the targets of every patch, by cross entropy.

    Args:
        cache: the features.
        recipe: the settings; None takes ``HeadRecipe()`` for labels, with 3 epochs for targets.
        targets: called with an index; returns (h, w) integers on the image's grid, where 255 does not count, or
            (C, h, w) shares of each class.  ``patch_masks`` makes them from masks.
        num_outputs: C; None takes the K classes, and with ``targets`` K + 1 with the background first.
        force: learn labels although a class is in all images or in none, with a warning.
        seed: of the order.

    Returns:
        A 1 x 1 convolution of D to C channels, in evaluation mode.

    Raises:
        ValueError: labels with a class that all images show, or none (``ImageDataset.check_trainable``); targets that
            do not fit, or none that counts; a loss that is not finite.
    """
    if targets is None:
        cache.dataset.check_trainable(force=force)
    recipe = recipe or HeadRecipe(epochs=3 if targets else 20)
    outputs = num_outputs or cache.targets.shape[1] + (targets is not None)
    means = cache.means()
    center, spread = means.mean(dim=0), means.std(dim=0, correction=0) + 1e-6
    if not recipe.standardize:
        center, spread = torch.zeros_like(center), torch.ones_like(spread)
    torch_head = nn.Linear(means.shape[1], outputs)
    nn.init.zeros_(torch_head.weight)
    nn.init.constant_(torch_head.bias, 0.0 if targets else -3.0)
    generator = torch.Generator().manual_seed(mix_seed("head", seed))
    if targets is None:
        steps = _label_steps(cache, recipe, means, generator)
        total = recipe.epochs * -(-len(cache) // recipe.batch_size)
    else:
        steps = _patch_steps(cache, recipe, targets, outputs, generator)
        total = recipe.epochs * -(-int(cache.grids().prod(dim=1).sum()) // recipe.batch_patches)
    head = _fit(torch_head, steps, total, recipe, center, spread)
    conv = nn.Conv2d(means.shape[1], outputs, kernel_size=1)
    with torch.no_grad():  # the standardization becomes part of the weights
        conv.weight.copy_((head.weight / spread)[:, :, None, None])
        conv.bias = nn.Parameter(head.bias - (head.weight / spread) @ center)
    return conv.eval().requires_grad_(False)


def patch_masks(cache: FeatureCache, dataset: ImageDataset) -> Callable[[int], Tensor]:
    """Targets from masks: for each patch the shares of the classes among its sure pixels.

    Args:
        cache: gives the grids.
        dataset: the same images with masks (0 background, class i as i + 1, 255 unsure).

    Returns:
        A function of an index; it returns (K + 1, h, w) shares, all zero where no pixel is sure.

    Raises:
        ValueError: another number of images, or an image without a mask.
    """
    if len(dataset) != len(cache) or any(sample.mask is None for sample in dataset):
        raise ValueError("give the images of the cache, each with a mask (dataset.with_masks(FOLDER)).")
    classes, grids = len(dataset.class_names), cache.grids().tolist()

    def shares(index: int) -> Tensor:
        mask = read_mask(Path(dataset[index].mask or ""), classes)
        planes = F.one_hot(torch.where(mask == 255, classes + 1, mask.long()), classes + 2)[..., : classes + 1]
        area = F.adaptive_avg_pool2d(planes.permute(2, 0, 1).float(), grids[index])
        return area / area.sum(dim=0, keepdim=True).clamp_min(1e-6)

    return shares


def install_head(model: CRT, head: nn.Conv2d) -> None:
    """Makes a 1 x 1 head that of a model: the center of its 3 x 3 convolution, zeros around it.

    Raises:
        ValueError: another number of channels or classes.
    """
    own: Any = model.head
    if head.weight.shape[:2] != own.weight.shape[:2]:
        raise ValueError(f"a head of shape {tuple(head.weight.shape)} does not fit one of {tuple(own.weight.shape)}.")
    bias: Any = head.bias
    with torch.no_grad():
        own.weight.zero_()
        own.weight[:, :, own.kernel_size[0] // 2, own.kernel_size[1] // 2] = head.weight[:, :, 0, 0].to(own.weight)
        own.bias.copy_(bias)


Step = Callable[[nn.Module, Callable[[Tensor], Tensor]], Tensor | None]


def _fit(
    head: nn.Linear, steps: Iterator[Step], total: int, recipe: HeadRecipe, center: Tensor, spread: Tensor
) -> nn.Linear:
    """Takes the steps; returns the head, or its moving average."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    average = copy.deepcopy(head)
    warmup = max(1, total // 20)
    for number, step in enumerate(steps):
        left = max(0.0, 1 - number / max(total, 1))
        optimizer.param_groups[0]["lr"] = recipe.lr * min(1.0, (number + 1) / warmup) * left
        loss = step(head, lambda x: (x.float() - center) / spread)
        if loss is None:
            continue
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is no longer finite at step {number + 1}; try a lower learning rate.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay = min(recipe.ema, number / (number + 10))  # the first steps count less
        for mean, value in zip(average.parameters(), head.parameters(), strict=True):
            mean.data.lerp_(value.data, 1 - decay)
    return average if recipe.ema else head


def _label_steps(cache: FeatureCache, recipe: HeadRecipe, means: Tensor, generator: torch.Generator) -> Iterator[Step]:
    """Steps on batches of images."""
    for _ in range(recipe.epochs):
        order = torch.randperm(len(cache), generator=generator)
        for batch in order.split(recipe.batch_size):

            def step(head: nn.Module, scaled: Callable[[Tensor], Tensor], batch: Tensor = batch) -> Tensor:
                if recipe.pool == 1:  # the mean of a linear map is the map of the mean
                    logits = head(scaled(means[batch]))
                else:
                    patches = [cache[i].patches.flatten(1).T for i in batch.tolist()]
                    logits = torch.stack([pool_maps(head(scaled(p)).T[:, None], recipe.pool) for p in patches])
                return F.binary_cross_entropy_with_logits(logits, cache.targets[batch])

            yield step


def _patch_steps(
    cache: FeatureCache,
    recipe: HeadRecipe,
    targets: Callable[[int], Tensor],
    outputs: int,
    generator: torch.Generator,
) -> Iterator[Step]:
    """Steps on batches of patches: shard by shard, shuffled within a shard."""
    counted = False
    for _ in range(recipe.epochs):
        for indices, grids, patches in cache.shards():
            pairs = zip(indices, grids.tolist(), strict=True)
            wanted = torch.cat([_flat_targets(targets(i), grid, outputs, i) for i, grid in pairs])
            sure = (wanted.sum(dim=1) > 0).nonzero()[:, 0]
            counted |= len(sure) > 0
            order = sure[torch.randperm(len(sure), generator=generator)]
            batches = order.split(recipe.batch_patches) if len(order) else ()
            for batch in batches:

                def step(
                    head: nn.Module,
                    scaled: Callable[[Tensor], Tensor],
                    x: Tensor = patches[batch],
                    y: Tensor = wanted[batch],
                ) -> Tensor:
                    losses = F.cross_entropy(
                        head(scaled(x)), y, reduction="none", label_smoothing=recipe.label_smoothing
                    )
                    if recipe.clamp < 1:
                        losses = losses.sort().values[: max(1, round(recipe.clamp * len(losses)))]
                    return losses.mean()

                yield step
    if not counted:
        raise ValueError("no patch has a target that counts.")


def _flat_targets(target: Tensor, grid: list[int], outputs: int, index: int) -> Tensor:
    """(h * w, C) shares of each class; all zero where the patch does not count."""
    if target.ndim == 2:
        if tuple(target.shape) != tuple(grid) or ((target < 0) | ((target >= outputs) & (target != 255))).any():
            raise ValueError(f"target {index} must be {tuple(grid)} integers below {outputs}, or 255.")
        planes = F.one_hot(torch.where(target == 255, outputs, target.long()), outputs + 1)
        return planes[..., :outputs].flatten(0, 1).float()
    if tuple(target.shape) != (outputs, *grid):
        raise ValueError(f"target {index} has the shape {tuple(target.shape)}, expected {(outputs, *grid)}.")
    return target.flatten(1).T.float()
