"""What the loops of all stages share: optimiser, learning rates, batches, log."""

import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from crt.train.recipe import CAMRecipe, RefineRecipe

__all__ = ["Log", "batches", "make_optimizer", "rates"]

LOG_EVERY = 50


def make_optimizer(
    bodies: Iterable[nn.Parameter], heads: Iterable[nn.Parameter], recipe: CAMRecipe | RefineRecipe
) -> torch.optim.Optimizer:
    """The recipe's optimiser over two groups, in the order of ``rates``."""
    groups = [{"params": list(bodies)}, {"params": list(heads)}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)


def rates(recipe: CAMRecipe | RefineRecipe, step: int, steps: int) -> tuple[float, float]:
    """Learning rates of both groups at a step: linear rise, polynomial decay; the second is ``head_factor`` times."""
    rise = min((step + 1) / recipe.warmup, 1.0) if recipe.warmup else 1.0
    rate = recipe.lr * rise * (1 - step / steps) ** recipe.power
    return rate, recipe.head_factor * rate


def batches(loader: DataLoader) -> Iterator[list[Tensor]]:
    """The loader's batches; an error in one of its processes comes without that process's traceback."""
    try:
        yield from loader
    except OSError as error:
        raise OSError(str(error).strip().splitlines()[-1].removeprefix("OSError: ")) from error


class Log:
    """Mean losses and speed, a line of JSON every ``LOG_EVERY`` steps.

    Raises:
        ValueError: a loss is NaN or infinite.
    """

    def __init__(self, path: Path, first: int) -> None:
        self.path, self.first, self.start = path, first, time.monotonic()
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, step: int, epoch: int, losses: dict[str, Tensor], batch_size: int) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())
        if not math.isfinite(self.sums["total"]):
            raise ValueError(f"the loss is no longer finite at step {step}; try a lower learning rate or float32.")
        self.count += 1
        if step % LOG_EVERY:
            return
        means = {name: round(value / self.count, 5) for name, value in self.sums.items()}
        speed = round((step - self.first) * batch_size / (time.monotonic() - self.start), 2)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "epoch": epoch, **means, "photos_per_second": speed}) + "\n")
        self.sums, self.count = {}, 0
