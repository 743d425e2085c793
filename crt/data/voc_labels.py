"""Image-level labels of VOC photos: from a CSV, from arrays without pickles, or from VOC's own annotations."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from crt._files import require_regular
from crt._messages import printable
from crt.data._names import clean_name, split_cells, unknown_class
from crt.data._text import table_rows
from crt.data._xml import parse_xml

__all__ = ["find_labels", "read_labels"]

SOURCES = ("labels.csv", "cls_labels.npz", "cls_labels.npy", "Annotations")


def find_labels(root: Path) -> Path:
    """The first of ``labels.csv``, ``cls_labels.npz``, ``cls_labels.npy`` and ``Annotations`` in a folder.

    Raises:
        FileNotFoundError: it has none of these.
    """
    for name in SOURCES:
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(
        f"{root / SOURCES[0]} does not exist; it holds the image-level labels: id,labels,difficult. "
        f"Nor is there {', '.join(SOURCES[1:-1])} or {SOURCES[-1]}/."
    )


def read_labels(
    source: Path, names: Iterable[str], classes: Sequence[str], *, difficult: bool = True
) -> dict[str, list[str]]:
    """{name: class names in the order of ``classes``}.

    Args:
        source: a CSV (id, labels and optionally difficult: class names separated by spaces); a ``.npz`` or ``.npy`` of
            arrays (see below); or a folder of VOC's XML files.
        names: the photos whose XML files are read; the other sources give all they hold.
        classes: the K class names.
        difficult: count objects marked as difficult as present; arrays mark none.

    An ``.npz`` holds one (K,) array of zeros and ones for each photo, named as the photo; an ``.npy`` a structured
    array with the fields ``id`` (text) and ``labels`` (K,).  Nothing is unpickled.

    Raises:
        FileNotFoundError: an XML file is not there.
        ValueError: an unknown class, or what cannot be understood, with file and line (or array).
    """
    if source.is_dir():
        return {name: _read_xml(source / f"{name}.xml", classes, difficult) for name in names}
    if source.suffix in (".npz", ".npy"):
        return _read_arrays(source, classes)
    if source.suffix == ".csv":
        return _read_csv(source, classes, difficult)
    raise ValueError(f"{source}: labels are read from a .csv, .npz or .npy file, or from a folder of .xml files.")


def _ordered(found: set[str], classes: Sequence[str], where: str) -> list[str]:
    if unknown := found.difference(classes):
        raise ValueError(f"{where}: {unknown_class(min(unknown), classes)}")
    return [name for name in classes if name in found]


def _read_csv(path: Path, classes: Sequence[str], difficult: bool) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    rows = table_rows(path)
    header = [cell.casefold() for cell in next(rows, ("", []))[1]]
    for where, row in rows:
        cells = dict(zip(header, row, strict=False))
        if not cells.get("id") or "labels" not in cells or len(row) > len(header):
            shown = printable(",".join(row))
            raise ValueError(f"{where}: expected id,labels[,difficult], labels separated by spaces, got '{shown}'.")
        if cells["id"] in labels:
            raise ValueError(f"{where}: '{printable(cells['id'])}' stands in the table twice.")
        texts = [cells["labels"], cells.get("difficult", "") if difficult else ""]
        found = {name for shown in split_cells([(where, text) for text in texts], classes) for name in shown}
        labels[cells["id"]] = _ordered(found, classes, where)
    return labels


def _read_arrays(path: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    try:
        content = np.load(require_regular(path), allow_pickle=False)
        if isinstance(content, np.ndarray):
            if not {"id", "labels"} <= set(content.dtype.names or ()):
                raise ValueError(f"expected the fields 'id' and 'labels', got {content.dtype.names or content.dtype}")
            pairs = {str(row["id"]): row["labels"] for row in content.reshape(-1)}
            if len(pairs) < content.size:
                raise ValueError("an id stands there twice")
        else:
            with content:
                pairs = {name: np.asarray(content[name]) for name in content.files}
    except Exception as error:  # numpy's readers raise what they like
        if "pickle" in str(error).lower():
            raise ValueError(
                f"{path} is a pickle, which could run any code and is never opened. Where you trust it, save it as "
                "arrays: numpy.savez('cls_labels.npz', **numpy.load(FILE, allow_pickle=True).item())."
            ) from error
        raise ValueError(f"{printable(path)}: {printable(error)}.") from error
    labels = {}
    for name, values in pairs.items():
        if values.shape != (len(classes),) or values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
            raise ValueError(
                f"{printable(path)}, {printable(name)!r}: expected {len(classes)} zeros and ones, got {values.dtype} "
                f"{values.shape}."
            )
        labels[name] = [label for label, shown in zip(classes, values, strict=True) if shown]
    return labels


def _read_xml(path: Path, classes: Sequence[str], difficult: bool) -> list[str]:
    if not path.exists():
        raise FileNotFoundError(f"there is no annotation at {printable(path)}.")
    objects: list[dict[str, str]] = []
    lines: list[int] = []

    def opened(tags: list[str], _: dict[str, str], line: int) -> None:
        if tags[0] != "annotation":
            raise ValueError(f"the root is <{printable(tags[0])}>, not <annotation>")
        if tags == ["annotation", "object"]:
            objects.append({})
            lines.append(line)
        elif tags == ["annotation", "object", "name"]:
            lines[-1] = line

    def closed(tags: list[str], text: str) -> None:
        if tags[:2] == ["annotation", "object"] and len(tags) == 3:
            objects[-1][tags[2]] = text

    parse_xml(path, opened, closed)
    shown = printable(path)
    for entry, line in zip(objects, lines, strict=True):
        _ordered({clean_name(entry.get("name", ""))}, classes, f"{shown}, line {line}")
    kept = [entry for entry in objects if difficult or entry.get("difficult") != "1"]
    return _ordered({clean_name(entry["name"]) for entry in kept}, classes, shown)
