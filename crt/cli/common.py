"""What all verbs share: options, the screen, errors of one line."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track

out, err = Console(), Console(stderr=True)

Scales = Annotated[str, typer.Option(help="Factors at which photos are seen, separated by commas.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")]
Model = Annotated[str, typer.Option(help="A name of `crt models`, hf-hub:ORG/NAME or local-dir:PATH.")]
Flip = Annotated[bool, typer.Option(help="Add the map of the mirrored photo.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Tiles computed at once, over scales and photos.")]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input and failing files end the command with one line on stderr and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        complain(error)
        raise typer.Exit(2) from error


def complain(error: BaseException, about: str = "") -> None:
    """One line on stderr."""
    text = " ".join(str(error).split()) or type(error).__name__
    err.print(f"[bold red]error:[/] {escape(about + text)}", highlight=False, soft_wrap=True)


def load_model(model: str, device: str) -> Any:
    import torch

    import crt

    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from error
    return crt.create_model(model, pretrained=True).to(target)


def factors(text: str, option: str = "--scales") -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected numbers separated by commas, like 0.5,1.") from None


def progress_bar(items: Iterable[Any], total: int) -> Iterable[Any]:
    return track(items, "photos", total=total, console=err, transient=True)
