"""What `crt eval` prints, and checks before the work."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from crt._messages import printable
from crt.cli.screen import out, say

if TYPE_CHECKING:
    from crt.evaluate.summary import Summary

__all__ = ["check_outputs", "numbers", "show"]


def check_outputs(plot: Path | None = None, **options: Path | None) -> None:
    """Fails before the work, if a result could not be written after it."""
    for name, path in {"plot": plot, **options}.items():
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"--{name} {path}: there is no folder {path.parent}.")
        if path is not None and path.is_dir():
            raise IsADirectoryError(f"--{name} {path}: this is a folder; give the name of a file.")
    if plot is not None:
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError as error:
            raise ValueError(f"--plot needs {error.name}: pip install 'crt-wsss[eval]'.") from error


def numbers(text: str, option: str, example: str) -> list[float]:
    """ "0.1:0.4:0.1" or "0.15" -> the numbers."""
    try:
        values = [float(part) for part in text.split(":")]
        if len(values) == 1:
            return values
        first, last, step = values
        count = int((last - first) / step + 1e-6) + 1
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"{option} {text!r}: expected one number or FIRST:LAST:STEP, for example {example}.") from None
    return [round(first + step * i, 6) for i in range(count)]


def show(summary: "Summary") -> None:
    """A table of percentages, a row a class, and the title in full below it."""
    from crt.evaluate.report import percent

    table = Table("class", *summary.columns)
    for place, name in enumerate(summary.names):
        table.add_row(Text(printable(name)), *(percent(values[place]) for values in summary.columns.values()))
    out.print(table)
    say(summary.title)
