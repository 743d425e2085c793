"""Results of measuring as text, curves, and contact sheets of the worst photos."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from crt._files import whole_file
from crt.evaluate.seeds import SeedReport
from crt.viz import contact_sheet, under_title

__all__ = ["WORST", "level", "percent", "rules", "worst", "write_plot", "write_sheet"]

WORST = 20


def percent(value: float, digits: int = 1) -> str:
    """A share in percent; "-" for NaN."""
    return "-" if value != value else f"{100 * value:.{digits}f}"


def level(threshold: float) -> str:
    """A threshold in words: three digits, or six where they differ."""
    return f"{threshold:.3f}" if abs(threshold - round(threshold, 3)) < 1e-6 else f"{threshold:.6f}"


def rules(found: SeedReport) -> str:
    """The mIoU of each rule of the threshold, named: these numbers do not compare with each other."""
    at = "" if found.fixed is None else f" ({level(found.fixed.best()[0])})"
    columns = found.columns().items()
    return ", ".join(f"{name}{at if name == 'fixed threshold' else ''} {percent(miou, 2)}" for name, miou in columns)


def worst(names: Sequence[str], scores: Tensor) -> list[tuple[int, str, float]]:
    """(place, name, score) of the ``WORST`` lowest of (N,) scores, the lowest first; photos with NaN are left out."""
    places = sorted((i for i, score in enumerate(scores.tolist()) if score == score), key=lambda i: float(scores[i]))
    return [(i, names[i], float(scores[i])) for i in places[:WORST]]


def write_plot(
    path: Path | None, title: str, axis: str, thresholds: Sequence[float], curves: Mapping[str, Sequence[float]]
) -> None:
    """Shares in percent over thresholds, as a PNG."""
    if path is None:
        return
    from matplotlib.figure import Figure

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


def write_sheet(
    path: Path | None, title: str, photos: Iterable[tuple[str, Sequence[Image.Image]]], *, columns: int, width: int
) -> None:
    """A contact sheet: each photo's text above its pictures, side by side in a strip of ``width`` pixels or more."""
    if path is None:
        return
    strips = [under_title(contact_sheet([pictures]), text, width=width) for text, pictures in photos]
    if strips:
        rows = [strips[i : i + columns] for i in range(0, len(strips), columns)]
        sheet = under_title(contact_sheet(rows, height=strips[0].height, gap=8), title)
        with whole_file(path) as temporary:
            sheet.save(temporary, format="PNG")
