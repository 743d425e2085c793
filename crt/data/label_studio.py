"""Label Studio's exports: JSON, JSON-MIN and CSV, and how any of them names files.

A task's classes are those of its choices, taxonomies, boxes, polygons and brushes, of all its annotators together.
Choices about a single region (``perRegion``) describe that region and are not classes of the photo.  Tasks that nobody
has annotated, or that were skipped, are left out with a warning; an annotation without a result is a negative.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from crt._messages import printable
from crt.data._names import check_names, clean_name, natural
from crt.data._photos import SUFFIXES, Entry, tails

__all__ = ["files_of", "is_label_studio", "read_label_studio", "records_of"]

_log = logging.getLogger(__name__)
REGIONS = (
    "rectanglelabels", "polygonlabels", "brushlabels", "bitmasklabels", "ellipselabels", "keypointlabels",
    "vectorlabels", "labels",
)  # fmt: skip
WHOLE = ("choices", "taxonomy")  # of the photo, unless the value has a geometry
GEOMETRY = ("x", "points", "vertices", "rle", "imageDataURL")
TEXTS = ("choice", "choices", "label", "labels", "tag", "class")  # fields of JSON-MIN in which a text is a class
ASIDE = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "history")


def is_label_studio(content: Any) -> bool:
    """Whether a JSON's content is a list of tasks with their photos."""
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and _photo(content[0]) != ""


def read_label_studio(
    content: list[Any], table: Path, class_names: Sequence[str] | None = None, places: Sequence[str] | None = None
) -> tuple[list[Entry], list[str]]:
    """The tasks of an export, and the class names: the given ones, or those in it.

    Args:
        content: tasks, or the records of JSON-MIN, of which a task has one for each annotation.
        table: their file, for messages.
        class_names: the K classes in order.
        places: where each task stands, for messages.

    Raises:
        ValueError: what cannot be understood, with its place.
    """
    shown, left_out = printable(table), 0
    fields = {*TEXTS, *(key for task in content if isinstance(task, dict) for key in task if _is_control(task[key]))}
    entries: dict[Any, Entry] = {}
    for place, task in enumerate(content):
        where = places[place] if places else f"{shown}, task [{place}]"
        if not isinstance(task, dict) or not (photo := _photo(task)):
            raise ValueError(f"{where}: expected a task with an 'image', got {printable(type(task).__name__)}.")
        raw = isinstance(task.get("data"), dict)
        labels = _annotated(task, where) if raw else _minimal(task, where, fields)
        if labels is None:
            left_out += 1
            continue
        file, *others = files_of(photo)
        key = (photo, str(task["id"])) if "annotation_id" in task and "id" in task else place
        entries.setdefault(key, Entry(where, file, [], others)).labels.extend(labels)
    if left_out:
        _log.warning("%s: %d tasks that nobody has annotated, or that were skipped, are left out", shown, left_out)
    _check(list(entries.values()), content, shown, fields)
    names = list(class_names or sorted({name for e in entries.values() for name in e.labels}, key=natural))
    if class_names is None:
        check_names(names, shown)
    return list(entries.values()), names


def files_of(text: str) -> list[str]:
    """What a photo may be called, the likeliest first: the text itself, or of an address of Label Studio its file.

    ``/data/upload/3/0a1b2c3d-cat.jpg`` was uploaded as ``cat.jpg``; ``/data/local-files/?d=set/cat.jpg`` and addresses
    (s3://, https://) keep their paths.
    """
    if not re.match(r"/data/(upload|local-files)/|[a-z0-9+-]{2,10}://", text, re.IGNORECASE):
        return [text]
    address = urlsplit(text)
    path = unquote((parse_qs(address.query).get("d") or [address.path])[0]).lstrip("/")
    base = path.rpartition("/")[2]
    names = [base, re.sub(r"^[0-9a-f]{8}-", "", base)] if "data/upload/" in path else tails(path)
    return [name for name in dict.fromkeys(names) if ".." not in name] or [base or text]


def _photo(task: dict[str, Any]) -> str:
    """The address of a task's photo: in its data, or in JSON-MIN beside the labels."""
    inner = task.get("data")
    data = inner if isinstance(inner, dict) else task
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    photos = [value for value in texts.values() if Path(urlsplit(value).path).suffix.lower() in SUFFIXES]
    named = [texts[key] for key in ("image", "img", "photo", "url", "file") if key in texts]
    return next(iter([*named, *photos]), "")


def _annotated(task: dict[str, Any], where: str) -> list[str] | None:
    """The labels of a task of JSON; None if there is no annotation that counts."""
    if "annotations" not in task and "completions" not in task:
        raise ValueError(f"{where}: a task without 'annotations'; export with the annotations, as JSON or JSON-MIN.")
    annotations = task.get("annotations", task.get("completions"))
    if not isinstance(annotations, list):
        raise ValueError(f"{where}: expected a list of annotations.")
    made = [a for a in annotations if isinstance(a, dict) and not (a.get("was_cancelled") or a.get("skipped"))]
    results = [result for annotation in made for result in _list(annotation.get("result"), where)]
    values = [result.get("value") for result in results if isinstance(result, dict)]
    return [name for value in values if isinstance(value, dict) for name in _named(value, where)] if made else None


def _minimal(task: dict[str, Any], where: str, fields: set[str]) -> list[str] | None:
    """The labels of a record of JSON-MIN or CSV; None if nobody has annotated it."""
    found: list[str] = []
    for key, value in task.items():
        if isinstance(value, str):
            found += [name] if key in fields and (name := clean_name(value)) else []
        for item in value if isinstance(value, list) else [value]:
            found += _named(item, where) if isinstance(item, dict) else []
            found += [clean_name(item)] if isinstance(item, str) and key in fields and item is not value else []
    if not found and "annotator" not in task and "annotation_id" not in task and "total_annotations" not in task:
        raise ValueError(f"{where}: no labels ('choice', 'label') beside the photo.")
    return None if not found and "annotation_id" in task and task["annotation_id"] in (None, "") else found


def _check(entries: list[Entry], content: list[Any], shown: str, fields: set[str]) -> None:
    """ValueError if no task has a label: nothing to learn, or the labels are in a field that might be anything."""
    if not entries:
        raise ValueError(f"{shown}: nobody has annotated any of {len(content)} tasks.")
    if any(entry.labels for entry in entries):
        return
    other = {
        key: value
        for task in content
        if not isinstance(task.get("data"), dict)
        for key, value in task.items()
        if isinstance(value, str) and value and key not in ASIDE and key not in fields and value != _photo(task)
    }
    for key, value in other.items():
        raise ValueError(
            f"{shown} has no labels that can be told from other texts; if the field '{printable(key)}' "
            f"('{printable(value)}') holds them, export as JSON, which says so, or call the field 'choice'."
        )


def _is_control(value: Any) -> bool:
    """Whether a field of JSON-MIN holds what an annotator marked."""
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, dict) and any(kind in item for kind in (*REGIONS, *WHOLE)) for item in items)


def _named(value: dict[str, Any], where: str) -> Iterator[str]:
    about_region = any(key in value for key in GEOMETRY)
    for kind in REGIONS if about_region else (*REGIONS, *WHOLE):
        for name in _list(value.get(kind), where):
            if kind == "taxonomy" and isinstance(name, list):  # a path from the root
                name = name[-1] if name else ""
            if not isinstance(name, str):
                raise ValueError(f"{where}: {kind} are texts, got {printable(type(name).__name__)}.")
            if clean_name(name):
                yield clean_name(name)


def _list(value: Any, where: str) -> list[Any]:
    if value is None or isinstance(value, str):
        return [value] if value else []
    if not isinstance(value, list):
        raise ValueError(f"{where}: expected a list, got {printable(type(value).__name__)}.")
    return value


def records_of(header: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> list[dict[str, Any]]:
    """The rows of Label Studio's CSV as records of JSON-MIN: cells are texts, or JSON of what was marked.

    Raises:
        ValueError: a row of other than one cell for each column, with its place.
    """
    for where, cells in rows:
        if len(cells) != len(header):
            raise ValueError(f"{where}: {len(cells)} cells in {len(header)} columns.")
    return [dict(zip(header, map(_cell, cells), strict=True)) for _, cells in rows]


def _cell(text: str) -> Any:
    if text.startswith(("[", "{")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text
