"""What `crt eval` prints, and checks before the work."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from crt._messages import printable
from crt.cli.screen import out, say

__all__ = ["box_scores", "check_outputs", "class_fields", "numbers", "per_class", "show"]


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
    from crt.evaluate.report import percent

    table = Table("class", *columns)
    for place, name in enumerate(names):
        table.add_row(Text(printable(name)), *(percent(float(values[place])) for values in columns.values()))
    out.print(table)
    say(title)


def box_scores(fixed: Any, curve: Any, peak: str) -> str:
    """All scores in one sentence."""
    from crt.evaluate import report

    percent = {name: report.percent(float(value), 2) for name, value in fixed.items()}
    best = float(curve["max_box_acc"][1])
    return (
        f"IoU 0.5: GT-known {percent['gt_known']}, "
        f"localisation Top-1 {percent['top1_loc']}, Top-5 {percent['top5_loc']}; "
        f"classification Top-1 {percent['top1_cls']}, Top-5 {percent['top5_cls']}; "
        f"MaxBoxAcc {100 * best:.2f} at {report.level(float(curve['threshold'][1]))} ({peak}), "
        f"MaxBoxAccV2 {100 * float(curve['max_box_acc_v2']):.2f} (each IoU's best on this list)"
    )


def class_fields(names: list[str], **values: Any) -> dict[str, Any]:
    """``classes``: {name: {measure: share or None}}."""
    from crt.evaluate import record as records

    listed = {key: value.tolist() for key, value in values.items()}
    return {"classes": {n: {key: records.share(row[i]) for key, row in listed.items()} for i, n in enumerate(names)}}


def per_class(data: Any, found: Any) -> dict[str, list[float]]:
    """Each of ``Localisation.names``, class by class; NaN for a class without photos."""
    import torch

    labels = torch.tensor([sample.labels[0] for sample in data])
    rows = [found.outcomes[labels == label].double().mean(dim=0) for label in range(len(data.class_names))]
    return {name: [float(row[i]) for row in rows] for i, name in enumerate(found.localisation.names)}
