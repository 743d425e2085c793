"""Optimizers and learning rates of a recipe: two groups of parameters, bodies and heads."""

from collections.abc import Iterable

import torch
from torch import nn

from crt.train.recipe import Recipe

__all__ = ["learning_rates", "make_optimizer"]


def make_optimizer(
    bodies: Iterable[nn.Parameter], heads: Iterable[nn.Parameter], recipe: Recipe
) -> torch.optim.Optimizer:
    """The recipe's optimizer over two groups, in the order of ``learning_rates``."""
    groups = [{"params": list(bodies)}, {"params": list(heads)}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)


def learning_rates(recipe: Recipe, step: int, steps: int) -> tuple[float, float]:
    """Rates of both groups at a step: linear warm-up, then polynomial decay; the second is ``head_factor`` times."""
    rise = min((step + 1) / recipe.warmup, 1.0) if recipe.warmup else 1.0
    rate = recipe.lr * rise * (1 - step / steps) ** recipe.power
    return rate, recipe.head_factor * rate
