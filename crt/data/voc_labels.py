"""Image-level labels of VOC photos: from a CSV, from arrays without pickles, or from VOC's own annotations."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.parsers import expat

import numpy as np

from crt._messages import did_you_mean
from crt.data._text import table_rows

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
    if unknown := found - set(classes):
        name = min(unknown)
        hint = did_you_mean(name, classes) or f" Classes: {', '.join(classes)}."
        raise ValueError(f"{where}: unknown class {name!r}.{hint}")
    return [name for name in classes if name in found]


def _read_csv(path: Path, classes: Sequence[str], difficult: bool) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for where, row in table_rows(path):
        if not row.get("id") or row.get("labels") is None or None in row:
            cells = ",".join(str(cell) for cell in row.values() if cell is not None)
            raise ValueError(f"{where}: expected id,labels[,difficult], labels separated by spaces, got {cells!r}.")
        if row["id"] in labels:
            raise ValueError(f"{where}: {row['id']!r} stands in the table twice.")
        found = set(row["labels"].split())
        if difficult:
            found |= set((row.get("difficult") or "").split())
        labels[row["id"]] = _ordered(found, classes, where)
    return labels


def _read_arrays(path: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    try:
        content = np.load(path, allow_pickle=False)
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
        raise ValueError(f"{path}: {error}.") from error
    labels = {}
    for name, values in pairs.items():
        if values.shape != (len(classes),) or values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
            raise ValueError(
                f"{path}, {name!r}: expected {len(classes)} zeros and ones, got {values.dtype} {values.shape}."
            )
        labels[name] = [label for label, shown in zip(classes, values, strict=True) if shown]
    return labels


class _Annotation:
    """The objects of one of VOC's XML files: [class name, difficult, line], read with expat, which knows lines."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.objects: list[tuple[str, bool, int]] = []
        self._path: list[str] = []
        self._text: dict[str, tuple[str, int]] = {}
        self._parser = parser = expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._characters
        parser.EntityDeclHandler = self._entity
        with open(path, "rb") as file:
            parser.ParseFile(file)

    def _start(self, tag: str, _: dict[str, str]) -> None:
        self._path.append(tag)
        if self._path[0] != "annotation":
            raise ValueError(f"line {self._parser.CurrentLineNumber}: the root is <{tag}>, not <annotation>")
        if self._path == ["annotation", "object"]:
            self._text = {"name": ("", self._parser.CurrentLineNumber)}

    def _characters(self, text: str) -> None:
        if self._path[:2] == ["annotation", "object"] and len(self._path) == 3:
            before = self._text.get(self._path[2], ("", 0))[0]
            self._text[self._path[2]] = (before + text, self._parser.CurrentLineNumber)

    def _end(self, _: str) -> None:
        if self._path == ["annotation", "object"]:
            name, line = self._text["name"]
            self.objects.append((name.strip(), self._text.get("difficult", ("0", 0))[0].strip() == "1", line))
        self._path.pop()

    def _entity(self, *_: object) -> None:
        raise ValueError("entities are not read")


def _read_xml(path: Path, classes: Sequence[str], difficult: bool) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no annotation at {path}.")
    try:
        objects = _Annotation(path).objects
    except expat.ExpatError as error:
        raise ValueError(f"{path}, line {error.lineno}: not XML: {expat.errors.messages[error.code]}.") from error
    except (ValueError, LookupError) as error:  # a LookupError: of an encoding
        raise ValueError(f"{path}: {error}.") from error
    for name, _, line in objects:
        _ordered({name}, classes, f"{path}, line {line}")
    return _ordered({name for name, hard, _ in objects if difficult or not hard}, classes, str(path))
