"""Class margins: by how much a class must beat the background before a patch is given to it.

Heads that learn from pseudo labels rank the patches of a class well, but place the border to the background too far out
for some classes (aeroplane: the sky belongs to it) and too far in for others (sofa).  One number a class mends that.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from crt.cam.spread import spread
from crt.train.features import FeatureCache
from crt.train.objectness import Linear, image_patches

__all__ = ["best_margins", "lowered", "margin_counts", "otsu_margins", "posterior"]

RANGE = 4.0  # margins lie between -RANGE and RANGE
BINS = 64


def posterior(head: Linear, x: Tensor, labels: list[int], power: float) -> Tensor:
    """Probabilities of the background and an image's classes at each patch, spread by the features' own affinity.

    Args:
        head: K + 1 outputs, the background first.
        x: (N, D) patches.
        labels: indices of the image's classes.
        power: of ``crt.cam.spread``; 0 does not spread.

    Returns:
        (1 + k, N), columns that sum to one.
    """
    rows = [0, *[label + 1 for label in labels]]
    shares = Linear(head.weight[rows], head.bias[rows])(x).softmax(dim=1).T
    return spread(shares, x, power=power) if power else shares


def lowered(head: Linear, margins: Tensor) -> Linear:
    """A head of K + 1 outputs whose classes, not the background, are lowered by their margins (K,)."""
    return Linear(head.weight, torch.cat([head.bias[:1], head.bias[1:] - margins]))


def margin_counts(
    cache: FeatureCache,
    head: Linear,
    power: float,
    *,
    truth: Callable[[int], Tensor] | None = None,
    every: int = 1,
    watch: Callable[[Iterable[Any]], Iterable[Any]] = lambda items: items,
) -> Tensor:
    """How often each log ratio of a class to the background occurs in the images that show the class.

    Args:
        cache: the features.
        head: K + 1 outputs, the background first.
        power: see ``posterior``.
        truth: called with an index; returns (K + 1, h, w), the shares of background and classes at each patch.  A patch
            belongs to what covers more than half of it, and does not count if nothing does.
        every: look at every n-th image.
        watch: wraps the images, for example in a progress bar.

    Returns:
        (2, K, BINS) int64: patches that are not, and patches that are of the class; without ``truth`` all are in the
        first.
    """
    counts = torch.zeros(2, cache.targets.shape[1], BINS, dtype=torch.int64)
    for index, x in watch(image_patches(cache)):
        labels = cache.targets[index].nonzero()[:, 0].tolist()
        if index % every or not labels:
            continue
        log = posterior(head, x, labels, power).clamp(min=1e-6).log()
        ratios = log[1:] - log[:1]
        bins = ((ratios + RANGE) * (BINS / (2 * RANGE))).long().clamp(0, BINS - 1)
        areas = None if truth is None else truth(index).flatten(1)
        for row, label in zip(bins, labels, strict=True):
            if areas is None:
                counts[0, label] += torch.bincount(row, minlength=BINS)
                continue
            own, sure = areas[label + 1] > 0.5, areas.amax(dim=0) > 0.5
            counts[0, label] += torch.bincount(row[sure & ~own], minlength=BINS)
            counts[1, label] += torch.bincount(row[own], minlength=BINS)
    return counts


def otsu_margins(counts: Tensor) -> Tensor:
    """The margin of each class that parts its log ratios best into two groups (Otsu, 1979); no masks are needed.

    Args:
        counts: see ``margin_counts``.

    Returns:
        (K,) float32; 0 for a class without patches.
    """
    n = counts.sum(dim=0).double()
    centers = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (2 * RANGE / BINS) - RANGE
    below, total = n.cumsum(dim=1)[:, :-1], n.sum(dim=1, keepdim=True)
    sums = (n * centers).cumsum(dim=1)
    low = sums[:, :-1] / below.clamp(min=1)
    high = (sums[:, -1:] - sums[:, :-1]) / (total - below).clamp(min=1)
    between = below * (total - below) * (high - low) ** 2
    return torch.where(total[:, 0] > 0, _edges()[between.argmax(dim=1)], torch.zeros(()))


def best_margins(counts: Tensor) -> Tensor:
    """The margin of each class with the highest intersection over union on patches; needs ``truth``.

    Among equals the one nearest to zero is taken.

    Args:
        counts: see ``margin_counts``.

    Returns:
        (K,) float32; 0 for a class without patches.
    """
    above = counts.flip(-1).cumsum(dim=-1).flip(-1)[..., 1:].double()  # at each edge
    union = above[0] + counts[1].sum(dim=1, keepdim=True)
    iou = above[1] / union.clamp(min=1)
    edges = _edges()
    order = edges.abs().argsort(stable=True)
    best = order[iou[:, order].argmax(dim=1)]
    return torch.where(counts[1].sum(dim=1) > 0, edges[best], torch.zeros(()))


def _edges() -> Tensor:
    """The borders between bins."""
    return torch.arange(1, BINS, dtype=torch.float32) * (2 * RANGE / BINS) - RANGE
