"""The report of a run: one HTML page that needs nothing but itself, readable on a phone and on paper."""

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from crt import __version__
from crt._files import require_regular
from crt._messages import printable
from crt.data import ImageDataset
from crt.pipeline.journal import Journal
from crt.pipeline.page import CLOSING, OPENING, bars, curve, table
from crt.pipeline.pictures import Counts, Photo, Shown
from crt.pipeline.recipe import FitRecipe
from crt.viz import class_color

__all__ = ["Report", "write_report"]

TITLES = {
    "cam": "Maps",
    "maps": "Maps",
    "masks": "Pseudo masks",
    "boundary": "Boundary network",
    "masks-boundary": "Masks with the boundary network",
    "segment": "Segmentation",
    "final mask": "Final mask, no labels used",
    "everything": "All of it",
    "new photos": "New photos",
}
MOST_CLASSES = 40  # in tables with a row for each class
MOST_FILES = 20


@dataclasses.dataclass(frozen=True)
class Report:
    """What the page tells.

    Attributes:
        name: of the run.
        dataset: the photos.
        recipe: the settings.
        journal: stages, seconds and facts.
        shown: photos at each stage.
        commands: (step, command).
        left_out: (file, reason) of photos that could not be read.
        logs: losses of stages that train a network, JSON lines; a file may be missing.
    """

    name: str
    dataset: ImageDataset
    recipe: FitRecipe
    journal: Journal
    shown: Shown
    commands: Sequence[tuple[str, str]]
    left_out: Sequence[tuple[str, str]] = ()
    logs: Mapping[str, Path] = dataclasses.field(default_factory=dict)


def write_report(report: Report) -> str:
    """The page as HTML; names of photos and classes are escaped, and nothing is loaded from elsewhere."""
    parts = [
        OPENING.format(title=_text(report.name)),
        _head(report),
        _classes(report.dataset),
        _sheet(report),
        _changes(report),
        _learning(report),
        _timings(report),
        _commands(report),
        _left_out(report),
        CLOSING.format(version=_text(__version__)),
    ]
    return "\n".join(part for part in parts if part)


def _text(value: object, limit: int = 200) -> str:
    return escape(printable(value, limit), quote=True)


def _head(report: Report) -> str:
    """Title, and the run in numbers."""
    data, shown = report.dataset, report.shown
    negatives = sum(not sample.labels for sample in data)
    seconds = sum(report.journal.seconds(name) for name in report.journal.stages)
    total = shown.right + shown.missed
    tiles = [
        (f"{len(data)}", "photos"),
        (f"{len(data.class_names)}", "classes"),
        (f"{negatives}", "negatives"),
        (_duration(seconds), "of work"),
        (f"{shown.right} of {total}", "labels found again without labels"),
        (f"{shown.extra}", f"classes too many, in {shown.looked} photos"),
    ]
    cells = "".join(f"<div><b>{_text(value)}</b><span>{_text(text)}</span></div>" for value, text in tiles)
    return (
        f"<header><p class=kicker>crt fit</p><h1>{_text(report.name)}</h1>"
        "<p>A model that segments new photos, learned from image-level labels. No mask was used in training, and no "
        "threshold was chosen with one. The two last numbers compare the final masks with the labels of training "
        f"photos: a check, not a measurement.</p><div class=tiles>{cells}</div></header>"
    )


def _classes(data: ImageDataset) -> str:
    counts = [sum(label in sample.labels for sample in data) for label in range(len(data.class_names))]
    rows = [
        (_swatch(i) + _text(name), count) for i, (name, count) in enumerate(zip(data.class_names, counts, strict=True))
    ]
    negatives = sum(not sample.labels for sample in data)
    rows.append(("<i>negatives</i>", negatives))
    several = sum(len(sample.labels) > 1 for sample in data)
    note = f"<p>{several} photos show several classes.</p>" if several else ""
    return f"<section><h2>Classes</h2>{bars(rows)}{note}</section>"


def _sheet(report: Report) -> str:
    shown = report.shown
    titles = ["Photo", *(TITLES.get(stage, stage) for stage in shown.stages)]
    rows = "".join(_photo(photo, titles) for photo in shown.photos)
    return (
        f"<section><h2>Photos at each stage</h2><p>{len(shown.photos)} training photos, from all classes in turn. Maps "
        "go from violet (0) to yellow (1); those of several classes share a picture, each in its color. Hatched pixels "
        f"are unsure, and nothing is learned from them.</p>{rows}</section>"
    )


def _photo(photo: Photo, titles: Sequence[str]) -> str:
    labels = ", ".join(photo.labels) or "negative"
    right = set(photo.labels) == set(photo.found)
    verdict = "as labeled" if right else f"found: {', '.join(photo.found) or 'nothing'}"
    cells = "".join(
        f'<div><img alt="{_text(title)}" src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
        f"<span>{_text(title)}</span></div>"
        for title, picture in zip(titles, photo.pictures, strict=True)
    )
    mark = "ok" if right else "bad"
    return (
        f"<article><h3>{_text(photo.name)}</h3><p>{_text(labels)} <span class={mark}>{_text(verdict)}</span></p>"
        f'<div class=strip style="--n:{len(titles)}">{cells}</div></article>'
    )


def _changes(report: Report) -> str:
    """What each stage changed, over the photos that were looked at; and scores, if there is truth."""
    shown, names = report.shown, report.dataset.class_names
    titles = [TITLES.get(stage, stage) for stage in shown.stages]
    rows = [["changed by this stage", *(_share(c.changed, c.compared) for c in shown.counts)]]
    for value, name in [(0, "background"), *((i + 1, name) for i, name in enumerate(names[:MOST_CLASSES]))]:
        label = _text(name) if not value else _swatch(value - 1) + _text(name)
        rows.append([label, *(_of_all(counts, value) for counts in shown.counts)])
    rows.append(["unsure", *(_of_all(counts, -1) for counts in shown.counts)])
    more = len(names) - MOST_CLASSES
    note = f"<p>{more} more classes are not listed.</p>" if more > 0 else ""
    return (
        f"<section><h2>What each stage changed</h2><p>Shares of the pixels of {shown.looked} training photos. Unsure "
        f"pixels do not count as changed.</p>{table(['', *map(_text, titles)], rows)}{note}{_truth(report)}</section>"
    )


def _truth(report: Report) -> str:
    rows = []
    for name, stage in report.journal.stages.items():
        found = stage.get("facts", {}).get("truth")
        if found:
            rows.append(
                [
                    _text(TITLES.get(name, name)),
                    f"{100 * found['miou']:.1f}",
                    str(found["photos"]),
                    _text(found["rule"]),
                ]
            )
    if not rows:
        return ""
    return f"<h3>Against true masks</h3>{table(['stage', 'mIoU', 'photos', 'measured'], rows)}"


def _learning(report: Report) -> str:
    """Thresholds and losses."""
    stages, parts = report.journal.stages, []
    for name in ("masks", "masks-boundary"):
        if "thresholds" in stages.get(name, {}).get("facts", {}):
            low, high = stages[name]["facts"]["thresholds"]
            parts.append(
                f"<p>{_text(TITLES[name])}: background below a score of {low:.2f}, object above {high:.2f}, from a "
                "mixture of Gaussians over the scores.</p>"
            )
    facts = stages.get("segment", {}).get("facts", {})
    if "before" in facts:
        parts.append(
            f"<p>Cross entropy of the last head on its masks: {facts['after']:.3f} after {facts['epochs']} epochs; "
            f"{facts['before']:.3f} for a head that knows only how frequent each class is.</p>"
        )
    for name, path in report.logs.items():
        steps, losses = _losses(path)
        if len(steps) > 1:
            parts.append(f"<h3>{_text(TITLES.get(name, name))}: loss</h3>{curve(steps, losses)}")
    return f"<section><h2>Thresholds and losses</h2>{''.join(parts)}</section>" if parts else ""


def _losses(path: Path) -> tuple[list[int], list[float]]:
    """Steps and losses of a log; lines that are not ours are left out."""
    steps, losses = [], []
    try:
        lines = require_regular(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return [], []
    for line in lines:
        try:
            found: dict[str, Any] = json.loads(line)
            step, loss = int(found["step"]), float(found["total"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        steps.append(step)
        losses.append(loss)
    return steps, losses


def _timings(report: Report) -> str:
    rows = [
        [_text(TITLES.get(name, name)), _duration(report.journal.seconds(name)), f"<code>{_text(name)}/</code>"]
        for name in report.journal.stages
    ]
    return f"<section><h2>Time</h2>{table(['stage', 'time', 'folder'], rows)}</section>"


def _commands(report: Report) -> str:
    parts = [f"<h3>{_text(TITLES.get(name, name))}</h3><pre>{escape(text)}</pre>" for name, text in report.commands]
    return f"<section><h2>Each step by itself</h2>{''.join(parts)}</section>"


def _left_out(report: Report) -> str:
    if not report.left_out:
        return ""
    listed = "".join(f"<li>{_text(reason)}</li>" for _, reason in report.left_out[:MOST_FILES])
    more = len(report.left_out) - MOST_FILES
    note = f"<p>And {more} more.</p>" if more > 0 else ""
    return f"<section><h2>Photos left out</h2><ul>{listed}</ul>{note}</section>"


def _swatch(label: int) -> str:
    return f'<i class=swatch style="background:rgb{tuple(class_color(label))}"></i>'


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _of_all(counts: Counts, value: int) -> str:
    return _share(int(counts.classes[value]), int(counts.classes.sum()))


def _duration(seconds: float) -> str:
    """Seconds in words.

    >>> _duration(7.4), _duration(95), _duration(7300)
    ('7 s', '1 min 35 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
