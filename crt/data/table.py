"""A folder of photos and a table of their labels, in any of the formats that tools write."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crt._files import require_regular
from crt._messages import printable
from crt.data._photos import Entry, PhotoFinder, make_samples
from crt.data._text import read_json
from crt.data.coco import is_coco, read_coco
from crt.data.csv import read_csv
from crt.data.cvat import read_cvat
from crt.data.fiftyone import is_fiftyone, read_fiftyone
from crt.data.label_studio import is_label_studio, read_label_studio
from crt.data.sample import Sample

__all__ = ["read_table"]

_KNOWN = "a CSV, COCO's, Label Studio's or FiftyOne's JSON, or CVAT's XML"


def read_table(
    folder: str | os.PathLike[str],
    table: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    unusable: list[str] | None = None,
    kind: str | None = None,
) -> tuple[list[Sample], list[str]]:
    """The samples of a table, and the class names.

    Args:
        folder: where the photos are.
        table: the file; ``.json`` and ``.xml`` are told apart by their content, anything else is a CSV.
        class_names: the K classes in order, onto which names in the table are mapped; None takes the table's.
        unusable: takes what is wrong with photos that cannot be used; they are left out then, and not raised.
        kind: "csv" or "coco", if it must be that.

    Raises:
        FileNotFoundError: no such folder or table, or it names a photo that is not there.
        OSError: a table that is not a regular file.
        ValueError: what cannot be understood, with its place.
    """
    folder, table = Path(folder).expanduser(), Path(table).expanduser()
    if not table.exists():
        raise FileNotFoundError(f"there is no table at {printable(table)}; labels are {_KNOWN}.")
    require_regular(table)
    finder = PhotoFinder(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {printable(folder)}.")
    entries, names = _read(table, finder, class_names, kind)
    return make_samples(folder, entries, names, unusable=unusable, finder=finder), names


def _read(
    table: Path, finder: PhotoFinder, class_names: Sequence[str] | None, kind: str | None
) -> tuple[list[Entry], list[str]]:
    suffix = table.suffix.lower()
    if kind == "csv" or (kind is None and suffix not in (".json", ".xml", ".jsonl")):
        return read_csv(table, class_names)
    if suffix == ".xml" and kind is None:
        return read_cvat(table, class_names)
    content = read_json(table)
    if kind == "coco" or is_coco(content):
        return read_coco(content, table, finder, class_names)
    if is_label_studio(content):
        return read_label_studio(content, table, class_names)
    if is_fiftyone(content):
        return read_fiftyone(content, table, class_names)
    raise ValueError(f"{printable(table)}: found {_shape(content)}; labels are {_KNOWN}.")


def _shape(content: Any) -> str:
    if isinstance(content, dict):
        return f"an object with {printable(', '.join(content)) or 'nothing in it'}"
    if isinstance(content, list):
        return f"a list of {len(content)}" + (f", first {_shape(content[0])}" if content else "")
    return f"a {type(content).__name__}"
