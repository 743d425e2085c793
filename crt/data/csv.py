"""A table of one's own: a CSV with the columns ``file`` and ``labels``."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from crt._messages import did_you_mean, placed
from crt.data._text import name_of, table_rows
from crt.data.sample import Sample

__all__ = ["read_csv"]


def read_csv(
    folder: str | os.PathLike[str],
    table: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    unusable: list[str] | None = None,
) -> tuple[list[Sample], list[str]]:
    """The samples of a table, and the class names; see ``ImageDataset.from_csv``."""
    folder, table = Path(folder), Path(table)
    rows = _read_table(table)
    names = list(class_names) if class_names else sorted({name for row in rows for name in row.labels})
    samples: dict[str, Sample] = {}
    for row in rows:
        try:
            sample = _sample(folder, row, names)
            if samples.setdefault(sample.image.as_posix(), sample) is not sample:
                raise ValueError(f"{row.file!r} stands in the table twice.")
        except (ValueError, FileNotFoundError) as error:
            if unusable is None:
                raise placed(error, row.where) from error
            unusable.append(f"{row.where}: {error}")
    return list(samples.values()), names


class _Row(NamedTuple):
    where: str
    file: str
    labels: list[str]
    extra: bool


def _sample(folder: Path, row: _Row, names: list[str]) -> Sample:
    """The sample of a row; an error says what is wrong with it."""
    if row.extra:
        raise ValueError("more cells than columns; separate labels by spaces or ';'.")
    if not row.file or not row.labels:
        raise ValueError(f"a row needs a file and at least one label, got {row.file!r} and {row.labels}.")
    for name in row.labels:
        if name.endswith(","):
            raise ValueError(f"the label {name!r} has a comma; separate labels by spaces or ';'.")
        if name not in names:
            raise ValueError(f"unknown class {name!r}.{did_you_mean(name, names)}")
    if not (folder / row.file).is_file():
        raise FileNotFoundError(f"there is no photo at {folder / row.file}.")
    indices = sorted({names.index(name) for name in row.labels})
    return Sample(folder / row.file, name_of(row.file), indices)


def _read_table(table: Path) -> list[_Row]:
    """The rows as they stand there."""
    if not table.is_file():
        raise FileNotFoundError(f"there is no table at {table}; it holds the columns file,labels.")
    rows = []
    for where, row in table_rows(table, ("file", "labels")):
        cell = row["labels"] or ""
        found = [name.strip() for name in cell.split(";") if name.strip()] if ";" in cell else cell.split()
        rows.append(_Row(where, row["file"] or "", found, None in row))
    if not rows:
        raise ValueError(f"{table} has no rows.")
    return rows
