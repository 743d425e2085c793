"""The loop of all stages: batches of crops, learning rates, steps, checkpoints and log, over accelerate."""

import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypedDict

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.utils.data import DataLoader

from crt._files import lock_folder, remove_leftovers
from crt._messages import printable
from crt.data import ImageDataset
from crt.train.checkpoint import load_checkpoint, save_checkpoint
from crt.train.crops import Crops, Key, batch_plan
from crt.train.log import Log
from crt.train.optim import learning_rates
from crt.train.recipe import Recipe

__all__ = ["Progress", "Run", "RunOptions", "make_accelerator"]

logger = logging.getLogger(__name__)
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)
FORMAT = 2  # of a run's order and checkpoints; a run of another format cannot be resumed to the bit

# Wraps batches; called with them, the first one's number, their number, and what tells losses and speed so far.
Progress = Callable[[Iterable[Any], int, int, Callable[[], str]], Iterable[Any]]


class RunOptions(TypedDict, total=False):
    """Options of every stage, by keyword.

    Attributes:
        seed: of crops and order; default 0.
        precision: "no" (float32) or "bf16"; default None, which takes that of `accelerate launch`, or else "no".
        compile: compile the network; default False.
        save_every: steps between checkpoints; default 200.
        workers: processes that decode images; default 1.
        settings: what else must be the same when the run resumes, for example a digest of the weights that it began
            with; default None.
        progress: wraps the steps; called with them, the first step, their total number, and a function that returns
            loss and speed so far.
    """

    seed: int
    precision: str | None
    compile: bool
    save_every: int
    workers: int
    settings: Mapping[str, Any] | None
    progress: Progress


class Run:
    """One process of a training run: its share of the images, and how it computes.

    Args:
        dataset: the training images.
        recipe: the stage's settings.
        model: the network; its ``config`` has the normalization (``mean``, ``std``).
        seed, precision, compile, save_every, workers, settings, progress: see ``RunOptions``.

    Raises:
        ValueError: an unknown precision, or a batch that does not divide among the processes.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        recipe: Recipe,
        model: Any,
        *,
        seed: int = 0,
        precision: str | None = None,
        compile: bool = False,
        save_every: int = 200,
        workers: int = 1,
        settings: Mapping[str, Any] | None = None,
        progress: Progress = lambda steps, first, total, status: steps,
    ) -> None:
        self.precision = precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if self.precision not in ("no", "bf16"):
            raise ValueError(f"precision must be 'no' or 'bf16', got {self.precision!r}.")
        self.accelerator = make_accelerator()
        if recipe.batch_size % self.accelerator.num_processes:
            raise ValueError(
                f"a batch of {recipe.batch_size} does not divide among {self.accelerator.num_processes} processes."
            )
        self.dataset, self.recipe, self.seed = dataset, recipe, seed
        self.crops = Crops(dataset, recipe, model.config["mean"], model.config["std"], seed)
        self.compile, self.save_every, self.workers, self.progress = compile, save_every, workers, progress
        self.settings = {
            **(settings or {}),
            **dataclasses.asdict(recipe),
            "format": FORMAT,
            "seed": seed,
            "precision": self.precision,
            "data": dataset.digest(),
        }

    @contextmanager
    def folder(self, out: str | os.PathLike[str]) -> Iterator[Path]:
        """Makes the folder of the run, and keeps other runs out of it; the main process does this for all.

        Raises:
            BlockingIOError: another run is writing there; the message says which.
            ConnectionError: another process of this run has ended.
        """
        path = Path(out)
        with _told_of_the_lost(path) if self.accelerator.num_processes > 1 else nullcontext():
            if not self.accelerator.is_main_process:
                yield path
                return
            path.mkdir(parents=True, exist_ok=True)
            with lock_folder(path):
                remove_leftovers(path)
                yield path

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
        """The network's output for the images, in the precision of the run."""
        with torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            return network(images.to(self.accelerator.device))

    def train(
        self,
        model: nn.Module,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        losses_of: Callable[[Callable[[Tensor], Any], list[Tensor], int], dict[str, Tensor]],
        out: Path,
        *,
        after_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Takes all steps of the recipe, from ``out/checkpoint.safetensors`` on if there is one.

        Args:
            model: what checkpoints hold.
            network: the module that is called: ``model``, or one around it.
            optimizer: over the parameters of ``model``, from ``make_optimizer``.
            losses_of: called with the network, a batch and its epoch; returns the losses by name, among them "total".
            out: folder for checkpoint and log, held by ``folder``.
            after_step: called with the number of steps done after each of them.

        Raises:
            ValueError: ``out`` holds a run with other settings or images, fewer images than a batch, a loss that is not
                finite.
            OSError: an image that cannot be read, a checkpoint that cannot be written.
            KeyboardInterrupt: with a message that says what is saved and how to resume.
        """
        recipe, accelerator = self.recipe, self.accelerator
        plan = batch_plan(len(self.dataset), recipe.batch_size, recipe.epochs, self.seed)
        checkpoint = out / "checkpoint.safetensors"
        first = saved = load_checkpoint(checkpoint, model, optimizer, self.settings, len(plan))
        model.train()
        wrapped, prepared = accelerator.prepare(network, optimizer)
        if self.compile:
            wrapped = torch.compile(wrapped)
        log = Log(out / "log.jsonl", first, len(plan)) if accelerator.is_main_process else None
        status = log.status if log else lambda: ""
        try:
            for step, batch in enumerate(self.batches(plan[first:], first, len(plan), status), first):
                epoch = plan[step][0][0]
                losses = self._step(model, wrapped, prepared, step, len(plan), lambda n: losses_of(n, batch, epoch))  # noqa: B023
                after_step(step + 1)
                if log is not None:
                    log.add(step + 1, epoch, losses, recipe.batch_size)
                    if step + 1 == len(plan) or (step + 1) % self.save_every == 0:
                        save_checkpoint(checkpoint, model, optimizer, step + 1, self.settings)
                        saved = step + 1
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(_interrupted(checkpoint, saved, len(plan))) from error
        accelerator.wait_for_everyone()

    def _step(
        self,
        model: nn.Module,
        network: Any,
        optimizer: Any,
        step: int,
        steps: int,
        losses_of: Callable[[Any], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """One step of the optimizer; returns the losses."""
        for group, rate in zip(optimizer.param_groups, learning_rates(self.recipe, step, steps), strict=True):
            group["lr"] = rate
        losses = losses_of(network)
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(losses["total"])
        if self.recipe.clip is not None:
            self.accelerator.clip_grad_norm_(model.parameters(), self.recipe.clip)
        optimizer.step()
        return losses


def make_accelerator() -> Accelerator:
    """All processes of a launcher: on GPUs or, where there is none, on CPUs, which Accelerate joins only on request.

    ``Run.forward`` casts itself, and a step is a batch, whatever the environment says.
    """
    gpu = torch.accelerator.is_available() if hasattr(torch, "accelerator") else torch.cuda.is_available()
    steps = GradientAccumulationPlugin(num_steps=1)
    return Accelerator(cpu=not gpu or None, mixed_precision="no", gradient_accumulation_plugin=steps)


@contextmanager
def _told_of_the_lost(out: Path) -> Iterator[None]:
    """One clear error where a backend says that another process has ended; each says so in its own words."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
            raise
        raise ConnectionError(
            f"another process of this run has ended, or cannot be reached ({printable(error, 200)}). The same command "
            f"resumes from the last checkpoint in {printable(out)}."
        ) from error


def _interrupted(checkpoint: Path, saved: int, steps: int) -> str:
    """What is saved, and how to resume."""
    if not saved:
        return f"interrupted before the first checkpoint of {checkpoint.parent}; the same command starts again."
    return f"interrupted; {checkpoint} holds {saved} of {steps} steps, and the same command resumes from there."


def _read(loader: DataLoader) -> Iterator[list[Tensor]]:
    """The loader's batches; an error in one of its processes comes without that process's traceback."""
    try:
        yield from loader
    except OSError as error:
        raise OSError(str(error).strip().splitlines()[-1].removeprefix("OSError: ")) from error
