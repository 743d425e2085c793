"""The log of a run: mean losses and speed, one line of JSON every ``LOG_EVERY`` steps."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from crt._files import whole_file

__all__ = ["Log"]

LOG_EVERY = 50


class Log:
    """Appends to a file of JSON lines; lines of steps that will be repeated are removed first.

    Args:
        path: the file.
        first: steps already done.
        total: steps of the whole run.

    Raises:
        OSError: the file cannot be written; the message names it.
    """

    def __init__(self, path: Path, first: int, total: int) -> None:
        self.path, self.first, self.total, self.start = path, first, total, time.monotonic()
        self.sums: dict[str, float] = {}
        self.count, self.speed = 0, 0.0
        if path.exists():
            with whole_file(path) as temporary:
                kept = "".join(_lines_until(path.read_text(encoding="utf-8", errors="replace"), first))
                temporary.write_text(kept, encoding="utf-8")

    def add(self, step: int, epoch: int, losses: dict[str, Tensor], batch_size: int) -> None:
        """Adds the losses of a step (counted from 1), and writes a line if one is due.

        Raises:
            ValueError: a loss is NaN or infinite.
        """
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
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OSError(f"{self.path} cannot be written: {error.strerror}.") from error

    def status(self) -> str:
        """Mean loss and speed so far, for a progress bar."""
        return f"loss {self.sums['total'] / self.count:.3f}, {self.speed:.1f} images/s" if self.count else ""


def _lines_until(text: str, last: int) -> Iterator[str]:
    """The lines of a log up to a step; half a line, from a process that was killed, is dropped."""
    for line in text.splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= last and line.endswith("\n"):
                yield line
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
