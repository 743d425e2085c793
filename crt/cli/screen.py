"""What reaches the terminal: results on stdout, all else on stderr, errors on one line, nobody's escape codes."""

import logging
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track
from rich.text import Text
from typer.core import TyperGroup

from crt._messages import printable

__all__ = [
    "SafeGroup",
    "complain",
    "err",
    "handle_errors",
    "note",
    "out",
    "progress_bar",
    "progress_lines",
    "say",
    "start_logging",
    "step_bar",
]

LONGEST = 1500  # characters of an error message
_LINE_EVERY = 60  # seconds
T = TypeVar("T")
out, err = Console(), Console(stderr=True)

# What a user can do about an interrupted verb; any other starts again.
_RESUME = {
    "fit": "run the same command again to resume",
    "pseudo": "the masks written so far are complete; run the same command again to make the others",
    "segment": "the masks written so far are complete; run the same command again to make the others",
    "train": "run the same command again to resume from the last checkpoint",
}


class SafeGroup(TyperGroup):
    """The top of the command: every error ends with one line on stderr and exit code 2, an interrupt with 130."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # an ASCII terminal gets \xe9, not an exception
        with _safe_usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _safe_usage_errors():
            try:
                with handle_errors():
                    return super().invoke(ctx)
            except KeyboardInterrupt as error:
                advice = _RESUME.get(ctx.invoked_subcommand or "", "run the same command again to start over")
                if os.environ.get("RANK", "0") == "0":
                    note(str(error) or f"interrupted: {advice}.")
                raise typer.Exit(130) from error


@contextmanager
def handle_errors() -> Iterator[None]:
    """Bad input, failing files and exhausted memory end the command with one line on stderr and exit code 2.

    Any other exception is a fault of the library: its traceback is shown, and the exit code is 1.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of our output has gone; nobody is there to be told
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        complain(error)
        raise typer.Exit(2) from error
    except Exception as error:
        if _is_exit(error):
            raise
        if is_out_of_memory(error):
            complain(error)
            raise typer.Exit(2) from error
        for line in traceback.format_exc().splitlines():
            err.print(Text(printable(line, LONGEST)), highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's, or PyTorch's on the CPU or a GPU."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "allocate memory" in text or "not enough memory" in text)
    )


def complain(error: BaseException | str, about: str = "") -> None:
    """One line on stderr, ``about`` before it."""
    text = " ".join(_text(error).split())
    if not isinstance(error, str) and is_out_of_memory(error):
        text = f"out of memory; use a smaller --batch-size, or smaller images ({text})"
    message = Text("error: ", style="bold red") + Text(printable(about + text, LONGEST), style="not bold default")
    err.print(message, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """One line on stderr that is not a result."""
    err.print(Text(printable(text, LONGEST)), highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line on stdout.

    Raises:
        OSError: stdout cannot be written.
    """
    try:
        out.print(Text(printable(text, LONGEST)), highlight=False, soft_wrap=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"standard output cannot be written: {error.strerror}.") from error


def start_logging(verbose: bool) -> None:
    """Log records and warnings of the library go to stderr."""
    handler = RichHandler(console=err, show_path=False)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    warnings.formatwarning = lambda message, *_, **__: str(message)
    logging.captureWarnings(True)


def progress_bar(items: Iterable[T], total: int) -> Iterable[T]:
    """A bar; where stderr is not a terminal, a line a minute."""
    if not err.is_terminal:
        return progress_lines(items, 0, total, lambda: "")
    return track(items, "images", total=total, console=err, transient=True)


def progress_lines(items: Iterable[T], first: int, total: int, status: Callable[[], str]) -> Iterator[T]:
    """How far it is and how long it may take, in a line a minute; for logs."""
    start = told = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if (now := time.monotonic()) - told >= _LINE_EVERY:
            told, left = now, math.ceil((total - first - done) * (now - start) / done / 60)
            text = [f"{first + done} of {total}", status(), f"about {left} min left" if left > 0 else ""]
            note(", ".join(part for part in text if part))


def step_bar(steps: Iterable[T], first: int, total: int, status: Callable[[], str]) -> Iterable[T]:
    """The steps with a bar that begins at ``first`` and shows what ``status`` says; in a log, a line a minute."""
    if not err.is_terminal:
        yield from progress_lines(steps, first, total, status)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(status(), completed=first, total=total)
        for step in steps:
            yield step
            bar.update(task, advance=1, description=status())


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), LONGEST)


def _text(error: BaseException | str) -> str:
    """What an error says; of a system error without a path, its words."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the package {error.name!r} is missing ({error})"
    return str(error) or type(error).__name__


def _is_exit(error: Exception) -> bool:
    """Whether an exception is Typer's or Click's way to end: usage errors, ``Exit``, ``Abort``."""
    return hasattr(error, "exit_code") or isinstance(error, typer.Abort)


@contextmanager
def _safe_usage_errors() -> Iterator[None]:
    """Usage errors repeat what was typed; escape codes in it are made visible."""
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str):
            error.message = printable(message, LONGEST)  # type: ignore[attr-defined]
        raise
