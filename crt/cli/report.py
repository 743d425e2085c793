"""What `crt eval` writes: tables, records, curves, and the worst photos; each names what was measured, and how."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from crt.cli.common import out

WORST = 20


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


def percent(value: float, digits: int = 1) -> str:
    return "-" if value != value else f"{100 * value:.{digits}f}"


def level(threshold: float) -> str:
    """A threshold in words: three digits, or six where they differ."""
    return f"{threshold:.3f}" if abs(threshold - round(threshold, 3)) < 1e-6 else f"{threshold:.6f}"


def share(value: float) -> float | None:
    """For a record: JSON knows no NaN."""
    return None if value != value else round(value, 9)


def show(title: str, columns: Mapping[str, Sequence[float]], names: Sequence[str]) -> None:
    """A table of percentages, a row a class, and the title in full below it."""
    table = Table("class", *columns)
    for place, name in enumerate(names):
        table.add_row(name, *(percent(float(values[place])) for values in columns.values()))
    out.print(table)
    out.print(title, highlight=False, soft_wrap=True, markup=False)


def seen_by(extractor: Any, bf16: bool) -> dict[str, Any]:
    """For a record: how photos were seen."""
    settings = {name: getattr(extractor, name) for name in ("scales", "flip", "stride", "max_side")}
    return {**settings, "bf16": bf16}


def write_record(path: Path | None, **fields: Any) -> None:
    from crt._files import whole_file
    from crt.metrics import make_record

    if path is not None:
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(make_record(**fields), indent=2, allow_nan=False) + "\n")


def write_plot(
    path: Path | None, title: str, axis: str, thresholds: Sequence[float], curves: Mapping[str, Sequence[float]]
) -> None:
    """Shares in percent over thresholds, as a PNG."""
    if path is None:
        return
    from matplotlib.figure import Figure

    from crt._files import whole_file

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(thresholds, [100 * value for value in values], marker="." if len(values) < 60 else "", label=name)
    axes.set_xlabel(axis)
    axes.set_ylabel("%")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(title, fontsize=9, wrap=True, parse_math=False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def worst(names: Sequence[str], scores: Any) -> list[tuple[int, str, float]]:
    """(place, name, score) of the ``WORST`` lowest scores, the lowest first; photos without a score are left out."""
    places = sorted((i for i, score in enumerate(scores.tolist()) if score == score), key=lambda i: float(scores[i]))
    return [(i, names[i], float(scores[i])) for i in places[:WORST]]


def write_sheet(
    path: Path | None, title: str, photos: Iterable[tuple[str, Sequence[Any]]], *, columns: int, width: int
) -> None:
    """A contact sheet: each photo's text above its pictures, side by side in a strip of ``width`` pixels or more."""
    from crt._files import whole_file
    from crt.viz import contact_sheet, under_title

    if path is None:
        return
    strips = [under_title(contact_sheet([pictures]), text, width=width) for text, pictures in photos]
    if strips:
        rows = [strips[i : i + columns] for i in range(0, len(strips), columns)]
        sheet = under_title(contact_sheet(rows, height=strips[0].height, gap=8), title)
        with whole_file(path) as temporary:
            sheet.save(temporary, format="PNG")
