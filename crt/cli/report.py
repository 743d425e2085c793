"""What `crt eval` prints, and checks before the work."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from crt.cli.common import out
from crt.evaluate.report import percent

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


def show(title: str, columns: Mapping[str, Sequence[float]], names: Sequence[str]) -> None:
    """A table of percentages, a row a class, and the title in full below it."""
    table = Table("class", *columns)
    for place, name in enumerate(names):
        table.add_row(name, *(percent(float(values[place])) for values in columns.values()))
    out.print(table)
    out.print(title, highlight=False, soft_wrap=True, markup=False)
