"""Objectness without labels: a linear layer on patch features that tells objects from their surroundings.

In a self-supervised transformer the class token attends to objects, unevenly and with outliers.  One ridge regression
of that attention onto the patch features, over a whole data set, keeps what the images have in common: which kinds of
features belong to objects.  Single outliers do not survive it, and an object is covered as a whole.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from crt.train.features import FeatureCache

__all__ = ["Linear", "fit_objectness", "image_patches", "object_map"]


class Linear(NamedTuple):
    """A linear layer as two tensors.

    Attributes:
        weight: (C, D) float32.
        bias: (C,) float32.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, C) float32."""
        return x.float() @ self.weight.T + self.bias


def image_patches(cache: FeatureCache) -> Iterator[tuple[int, Tensor]]:
    """For each image its index and its patches (N, D) float32, row by row; one shard is held at a time."""
    for indices, grids, patches in cache.shards():
        for index, rows in zip(indices, patches.split(grids.prod(dim=1).tolist()), strict=True):
            yield index, rows.float()


def fit_objectness(cache: FeatureCache, *, quantile: float = 0.9, ridge: float = 1e-3) -> Linear:
    """Ridge regression of the class token's attention onto patch features; every image has the same weight.

    Args:
        cache: the features.
        quantile: attention above this quantile of its image is cut down to it.
        ridge: added to the diagonal of the normal equations, as a share of its mean.

    Returns:
        A layer with one output.
    """
    attention = iter(cache.attentions().split(cache.grids().prod(dim=1).tolist()))
    matrix = vector = torch.zeros(())
    for _, x in image_patches(cache):
        seen = next(attention).float()
        seen = seen.clamp(max=float(torch.quantile(seen, quantile)))
        wanted = (seen - seen.min()) / (seen.max() - seen.min()).clamp(min=1e-12)
        rows = torch.cat([x, torch.ones(len(x), 1)], dim=1)
        matrix = matrix + (rows.T @ rows).double() / len(x)
        vector = vector + (rows.T @ wanted).double() / len(x)
    matrix = matrix + ridge * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=torch.float64)
    solution = torch.linalg.solve(matrix, vector).float()
    return Linear(solution[None, :-1].contiguous(), solution[-1:].clone())


def object_map(objectness: Linear, x: Tensor, *, floor: float = 0.05) -> Tensor:
    """Patches (N, D) of an image -> (N,) in [floor, 1]: their objectness between its extremes in this image."""
    scores = objectness(x)[:, 0]
    scores = (scores - scores.min()) / (scores.max() - scores.min() + 1e-6)
    return scores.clamp(min=floor)
