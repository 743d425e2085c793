"""Label Studio's exports: JSON, JSON-MIN, and how any of its tables names files.

A task's classes are those of its choices, boxes, polygons and brushes.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from crt._messages import printable
from crt.data._names import check_names, clean_name, natural
from crt.data._photos import SUFFIXES, Entry

__all__ = ["files_of", "is_label_studio", "read_label_studio"]

KINDS = ("choices", "rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels", "keypointlabels", "labels")
_DONE = ("total_annotations", "annotation_id", "annotator")


def is_label_studio(content: Any) -> bool:
    """Whether a JSON's content is a list of tasks with their photos."""
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and _photo(content[0]) != ""


def read_label_studio(
    content: list[Any], table: Path, class_names: Sequence[str] | None = None
) -> tuple[list[Entry], list[str]]:
    """The tasks of an export, and the class names: the given ones, or those in it.

    Raises:
        ValueError: what cannot be understood, with its place.
    """
    entries, shown = [], printable(table)
    for place, task in enumerate(content):
        where = f"{shown}, task [{place}]"
        if not isinstance(task, dict) or not (photo := _photo(task)):
            raise ValueError(f"{where}: expected a task with an 'image', got {printable(type(task).__name__)}.")
        file, *others = files_of(photo)
        entries.append(Entry(where, file, _labels(task, where), others))
    names = list(class_names or sorted({name for entry in entries for name in entry.labels}, key=natural))
    if class_names is None:
        check_names(names, shown)
    return entries, names


def files_of(text: str) -> list[str]:
    """What a photo may be called, the likeliest first: the text itself, or of an address of Label Studio its file.

    ``/data/upload/3/0a1b2c3d-cat.jpg`` was uploaded as ``cat.jpg``; ``/data/local-files/?d=set/cat.jpg`` and addresses
    (s3://, https://) keep their paths.
    """
    if not re.match(r"/data/(upload|local-files)/|[a-z0-9+]{2,10}://", text, re.IGNORECASE):
        return [text]
    address = urlsplit(text)
    path = unquote((parse_qs(address.query).get("d") or [address.path])[0]).lstrip("/")
    base = path.rpartition("/")[2]
    parts = path.split("/")
    tails = ["/".join(parts[i:]) for i in range(len(parts))] if len(parts) < 20 else [base]
    stripped = [re.sub(r"^[0-9a-f]{8}-", "", base)] if path.startswith("data/upload/") else []
    names = [base, *stripped] if stripped else tails
    return [name for name in dict.fromkeys(names) if ".." not in name] or [base or text]


def _photo(task: dict[str, Any]) -> str:
    """The address of a task's photo: in its data, or in JSON-MIN beside the labels."""
    inner = task.get("data")
    data = inner if isinstance(inner, dict) else task
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    photos = [value for value in texts.values() if Path(urlsplit(value).path).suffix.lower() in SUFFIXES]
    named = [texts[key] for key in ("image", "img", "photo", "url", "file") if key in texts]
    return next(iter([*named, *photos]), "")


def _labels(task: dict[str, Any], where: str) -> list[str]:
    if isinstance(task.get("data"), dict):
        if "annotations" not in task and "completions" not in task:
            raise ValueError(
                f"{where}: a task without 'annotations'; export with the annotations, as JSON or JSON-MIN."
            )
        annotations = task.get("annotations", task.get("completions"))
        if not isinstance(annotations, list):
            raise ValueError(f"{where}: expected a list of annotations.")
        kept = [a for a in annotations if isinstance(a, dict) and not a.get("was_cancelled")]
        if not kept:
            raise ValueError(f"{where}: nobody has annotated this photo; export annotated tasks alone.")
        results = [result for annotation in kept for result in _list(annotation.get("result"), where)]
        values = [result.get("value") for result in results if isinstance(result, dict)]
        return [name for value in values if isinstance(value, dict) for name in _named(value, where)]
    found: list[str] = []
    for key, value in task.items():
        if key in ("choice", "label", "labels", "tag", "class") and isinstance(value, str):
            found.append(clean_name(value))
        elif isinstance(value, dict):
            found += _named(value, where)
        elif isinstance(value, list):
            for item in value:
                found += _named(item, where) if isinstance(item, dict) else []
    if not found and not any(key in task for key in _DONE):
        raise ValueError(f"{where}: no labels ('choice', 'label') beside the photo.")
    return [name for name in found if name]


def _named(value: dict[str, Any], where: str) -> Iterator[str]:
    for kind in KINDS:
        for name in _list(value.get(kind), where):
            if not isinstance(name, str):
                raise ValueError(f"{where}: {kind} are texts, got {printable(type(name).__name__)}.")
            yield clean_name(name)


def _list(value: Any, where: str) -> list[Any]:
    if value is None or isinstance(value, str):
        return [value] if value else []
    if not isinstance(value, list):
        raise ValueError(f"{where}: expected a list, got {printable(type(value).__name__)}.")
    return value
