"""Labels from a CSV: a column of files, and one of labels or one of 0 and 1 for each class.

Read are tables of one's own (``file,labels``), one-hot tables (Kaggle, Roboflow's ``_classes.csv``), a row for each
object (Roboflow's and TensorFlow's ``_annotations.csv``) and Label Studio's CSV.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from crt._messages import printable
from crt.data._names import check_names, clean_name, natural, split_cells
from crt.data._photos import Entry
from crt.data._text import DELIMITERS, read_text, table_rows
from crt.data.label_studio import files_of, read_label_studio, records_of

__all__ = ["read_csv"]

# The first column that there is counts.
FILES = (
    "file", "filename", "filenames", "filepath", "path", "image", "images", "img", "photo", "imagename", "imagefile",
    "imagepath", "imgname", "imgpath", "imageid", "imgid", "id",
)  # fmt: skip
LABELS = (
    "labels", "label", "classes", "class", "categories", "category", "tags", "tag", "choice", "choices", "classname",
    "classnames", "labelname",
)  # fmt: skip
OBJECTS = ("xmin", "ymin", "xmax", "ymax")  # a table with these has a row for each object
ASIDE = ("", "unnamed0", "index", "width", "height", "split", "fold", "set", "unlabeled", "unlabelled")
EXPECTED = (
    "expected the columns file,labels (or image, filename, path; label, class, tags, categories), or a column of files "
    "and one of 0 and 1 for each class"
)
_TRUE, _FALSE = {"1", "1.0", "true"}, {"0", "0.0", "false"}


class _Table(NamedTuple):
    header: list[str]  # as it stands there
    columns: list[str]  # small letters and digits alone
    rows: list[tuple[str, list[str]]]


def read_csv(table: Path, class_names: Sequence[str] | None = None) -> tuple[list[Entry], list[str]]:
    """The rows of a table, and the class names: the given ones, or the table's.

    Raises:
        OSError: no such table, or not a regular file.
        ValueError: what cannot be understood, or looks like a class that nobody meant; with file and line.
    """
    found = _read(table)
    if "annotation_id" in found.header and found.rows:  # Label Studio's
        records = records_of(found.header, found.rows)
        return read_label_studio(records, table, class_names, [where for where, _ in found.rows])
    place = _column(found, FILES, table)
    if place is None:
        raise ValueError(f"{_head(table, found)}; {EXPECTED}.")
    label = _column(found, LABELS, table)
    if label is None and len(set(found.columns) - {*FILES, *ASIDE}) == 0:
        raise ValueError(f"{_head(table, found)}; {EXPECTED}.")
    if not found.rows:
        raise ValueError(f"{printable(table)} has no rows.")
    if label is None:
        return _one_hot(table, found, place, class_names)
    cells = [(where, row[label] if len(row) == len(found.columns) else "") for where, row in found.rows]
    cells = [(where, clean_name(text)) for where, text in cells]
    labels = split_cells(cells, class_names)
    names = list(class_names or sorted({name for shown in labels for name in shown}, key=natural))
    if class_names is None:
        check_names(names, printable(table), written=True)
    entries = [_entry(where, row, place, found, s) for (where, row), s in zip(found.rows, labels, strict=True)]
    return (_merged(entries) if set(OBJECTS) <= set(found.columns) else entries), names


def _read(table: Path) -> _Table:
    first = next((line for line in read_text(table).splitlines() if line.strip()), "")
    given = re.fullmatch(r"\s*sep=(.)\s*", first)  # Excel's
    best: _Table | None = None
    for delimiter in (given[1],) if given else DELIMITERS:
        if not given and delimiter not in first:
            continue
        rows = list(table_rows(table, delimiter))[1 if given else 0 :]
        columns = [re.sub(r"[\W_]", "", cell.casefold()) for cell in rows[0][1]] if rows else []
        found = _Table(rows[0][1] if rows else [], columns, rows[1:])
        if best is None or (set(columns) & set(FILES) and not set(best.columns) & set(FILES)):
            best = found
    return best or _Table([first.strip()], [], [])


def _head(table: Path, found: _Table) -> str:
    return f"{printable(table)}, line 1: found '{printable(','.join(found.header))}'"


def _column(found: _Table, known: Sequence[str], table: Path) -> int | None:
    """The place of the first known name among the columns."""
    for name in known:
        if (count := found.columns.count(name)) > 1:
            raise ValueError(f"{_head(table, found)}: {count} columns are called {name!r}.")
        if count:
            return found.columns.index(name)
    return None


def _entry(where: str, row: list[str], place: int, found: _Table, labels: list[str], error: str = "") -> Entry:
    if len(row) > len(found.columns):
        error = "more cells than columns; separate labels by spaces or ';', or put the cell in quotes."
    elif len(row) < len(found.columns):
        error = f"{len(row)} of {len(found.columns)} cells; without any label, a row is 'a.jpg,'."
    file, *others = files_of(row[place] if place < len(row) else "")
    return Entry(where, file, labels, others, error)


def _merged(entries: list[Entry]) -> list[Entry]:
    """One entry for each photo of a table that has a row for each object."""
    photos: dict[str, Entry] = {}
    for entry in entries:
        photos.setdefault(entry.file, entry._replace(labels=[])).labels.extend(entry.labels)
    return list(photos.values())


def _one_hot(
    table: Path, found: _Table, place: int, class_names: Sequence[str] | None
) -> tuple[list[Entry], list[str]]:
    aside = {i for i, name in enumerate(found.columns) if name in ASIDE or i == place}
    columns = {i: clean_name(name) for i, name in enumerate(found.header) if i not in aside}
    names = list(class_names or columns.values())
    if len(set(columns.values())) < len(columns):
        raise ValueError(f"{_head(table, found)}: two columns have the same name.")
    entries = []
    for where, row in found.rows:
        shown, error = [], ""
        for i, name in columns.items() if len(row) == len(found.header) else ():
            if (value := row[i].casefold()) in _TRUE:
                shown.append(name)
            elif value not in _FALSE:
                error = (
                    f"expected 0 or 1 in the column '{printable(name)}', got '{printable(row[i])}'; there is no column "
                    f"of labels, so each column is a class. Otherwise {EXPECTED}."
                )
        entries.append(_entry(where, row, place, found, shown, error))
    if class_names is None:
        check_names(names, f"{printable(table)}, line 1")
    return entries, names
