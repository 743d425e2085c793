"""The loop of all stages: batches of crops, learning rates, steps, checkpoints and log, over accelerate."""

import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.utils.data import DataLoader

from crt._files import remove_leftovers, whole_file
from crt.data import LabelledPhotos
from crt.train.checkpoint import load_checkpoint, save_checkpoint
from crt.train.photos import Crops, Key, batch_plan
from crt.train.recipe import CAMRecipe, RefineRecipe

__all__ = ["Progress", "Run", "make_optimizer"]

logger = logging.getLogger(__name__)
LOG_EVERY = 50

# Wraps batches; called with them, the first one's number, their number, and what tells losses and speed so far.
Progress = Callable[[Iterable[Any], int, int, Callable[[], str]], Iterable[Any]]


class Run:
    """One process of a training run: its share of the photos, and how it computes.

    Args:
        photos: the training photos.
        recipe: the stage's settings.
        model: the network; its ``config`` has the normalisation (``mean``, ``std``).
        seed: of crops and order.
        precision: "no" (float32) or "bf16"; None takes what `accelerate launch` was told, or else "no".
        workers: processes that decode photos.
        progress: shows how far the main process is.

    Raises:
        ValueError: an unknown precision, or a batch that does not divide among the processes.
    """

    def __init__(
        self,
        photos: LabelledPhotos,
        recipe: CAMRecipe | RefineRecipe,
        model: Any,
        *,
        seed: int,
        precision: str | None,
        workers: int,
        progress: Progress,
    ) -> None:
        self.precision = precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if self.precision not in ("no", "bf16"):
            raise ValueError(f"precision must be 'no' or 'bf16', got {self.precision!r}.")
        # ``forward`` casts itself, and a step is a batch, whatever the environment says.
        self.accelerator = Accelerator(
            mixed_precision="no", gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1)
        )
        if recipe.batch_size % self.accelerator.num_processes:
            raise ValueError(
                f"a batch of {recipe.batch_size} does not divide among {self.accelerator.num_processes} processes."
            )
        self.photos, self.recipe, self.seed = photos, recipe, seed
        self.crops = Crops(photos, recipe, model.config["mean"], model.config["std"], seed)
        self.workers, self.progress = workers, progress

    def batches(
        self, plan: list[list[Key]], first: int, total: int, status: Callable[[], str] = lambda: ""
    ) -> Iterable[list[Tensor]]:
        """This process's crops of each batch; the main process shows how far it is."""
        mine = [batch[self.accelerator.process_index :: self.accelerator.num_processes] for batch in plan]
        prefetch = 4 if self.workers else None
        loader = DataLoader(
            self.crops,
            batch_sampler=mine,
            num_workers=self.workers,
            prefetch_factor=prefetch,
            generator=torch.Generator(),  # its seeds are not drawn from the random state that checkpoints hold
        )
        steps = _read(loader)
        return self.progress(steps, first, total, status) if self.accelerator.is_main_process else steps

    def forward(self, network: Callable[[Tensor], Any], images: Tensor) -> Any:
        """The network's answer to the images, in the precision of the run."""
        with torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            return network(images.to(self.accelerator.device))

    def train(
        self,
        model: nn.Module,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        losses_of: Callable[[Callable[[Tensor], Any], list[Tensor], int], dict[str, Tensor]],
        out: str | os.PathLike[str],
        *,
        save_every: int,
        compile: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Takes all steps of the recipe, from ``out/checkpoint.safetensors`` on if it is there.

        Args:
            model: what checkpoints hold.
            network: the module that is called: ``model``, or one around it.
            optimizer: over the parameters of ``model``, from ``make_optimizer``.
            losses_of: called with the network, a batch and its epoch; returns the losses by name, among them "total".
            out: folder for checkpoint and log; made if need be.
            save_every: steps between checkpoints.
            compile: compile the network.
            settings: what else must be the same when the run goes on.

        Raises:
            ValueError: ``out`` holds a run with other settings or photos, fewer photos than a batch, a loss that is not
                finite.
            OSError: a photo that cannot be read, a checkpoint that cannot be written.
        """
        recipe, accelerator, out = self.recipe, self.accelerator, Path(out)
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        plan = batch_plan(len(self.photos), recipe.batch_size, recipe.epochs, self.seed)
        settings = {
            **(settings or {}),
            **dataclasses.asdict(recipe),
            "seed": self.seed,
            "precision": self.precision,
            "data": self.photos.digest(),
        }
        checkpoint, first = out / "checkpoint.safetensors", 0
        if checkpoint.exists():
            first = load_checkpoint(checkpoint, model, optimizer, settings)
            logger.info("%s: goes on at step %d of %d", out, first, len(plan))
        model.train()
        wrapped, prepared = accelerator.prepare(network, optimizer)
        if compile:
            wrapped = torch.compile(wrapped)
        log = _Log(out / "log.jsonl", first, len(plan)) if accelerator.is_main_process else None
        status = log.status if log else lambda: ""
        for step, batch in enumerate(self.batches(plan[first:], first, len(plan), status), first):
            epoch = plan[step][0][0]
            for group, rate in zip(optimizer.param_groups, _rates(recipe, step, len(plan)), strict=True):
                group["lr"] = rate
            losses = losses_of(wrapped, batch, epoch)
            prepared.zero_grad(set_to_none=True)
            accelerator.backward(losses["total"])
            if recipe.clip is not None:
                accelerator.clip_grad_norm_(model.parameters(), recipe.clip)
            prepared.step()
            if log is not None:
                log.add(step + 1, epoch, losses, recipe.batch_size)
                if step + 1 == len(plan) or (step + 1) % save_every == 0:
                    save_checkpoint(checkpoint, model, optimizer, step + 1, settings)
        accelerator.wait_for_everyone()


def make_optimizer(
    bodies: Iterable[nn.Parameter], heads: Iterable[nn.Parameter], recipe: CAMRecipe | RefineRecipe
) -> torch.optim.Optimizer:
    """The recipe's optimiser over two groups, in the order of ``_rates``."""
    groups = [{"params": list(bodies)}, {"params": list(heads)}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)


def _rates(recipe: CAMRecipe | RefineRecipe, step: int, steps: int) -> tuple[float, float]:
    """Learning rates of both groups at a step: linear rise, polynomial decay; the second is ``head_factor`` times."""
    rise = min((step + 1) / recipe.warmup, 1.0) if recipe.warmup else 1.0
    rate = recipe.lr * rise * (1 - step / steps) ** recipe.power
    return rate, recipe.head_factor * rate


def _read(loader: DataLoader) -> Iterator[list[Tensor]]:
    """The loader's batches; an error in one of its processes comes without that process's traceback."""
    try:
        yield from loader
    except OSError as error:
        raise OSError(str(error).strip().splitlines()[-1].removeprefix("OSError: ")) from error


class _Log:
    """Mean losses and speed, a line of JSON every ``LOG_EVERY`` steps and at the last; steps to be repeated go.

    Raises:
        ValueError: a loss is NaN or infinite.
    """

    def __init__(self, path: Path, first: int, total: int) -> None:
        self.path, self.first, self.total, self.start = path, first, total, time.monotonic()
        self.sums: dict[str, float] = {}
        self.count = 0
        if path.exists():
            with whole_file(path) as temporary:
                temporary.write_text("".join(_until(path.read_text(encoding="utf-8"), first)), encoding="utf-8")

    def add(self, step: int, epoch: int, losses: dict[str, Tensor], batch_size: int) -> None:
        if (step - 1) % LOG_EVERY == 0:
            self.sums, self.count = {}, 0
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())
        if not math.isfinite(self.sums["total"]):
            raise ValueError(f"the loss is no longer finite at step {step}; try a lower learning rate or float32.")
        self.count += 1
        self.speed = (step - self.first) * batch_size / (time.monotonic() - self.start)
        if step % LOG_EVERY and step < self.total:
            return
        means = {name: round(value / self.count, 5) for name, value in self.sums.items()}
        line = {"step": step, "epoch": epoch, **means, "photos_per_second": round(self.speed, 2)}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def status(self) -> str:
        return f"loss {self.sums['total'] / self.count:.3f}, {self.speed:.1f} photos/s"


def _until(text: str, last: int) -> Iterator[str]:
    """The lines of a log up to a step; half a line, of a process that was killed, goes too."""
    for line in text.splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= last and line.endswith("\n"):
                yield line
        except (ValueError, TypeError, KeyError):
            continue
