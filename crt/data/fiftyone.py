"""FiftyOne's exports: ``labels.json`` of image classification data sets, ``samples.json`` of its own format.

Samples whose field of labels is empty (null) have not been labeled: they are left out with a warning.  An empty list of
labels is a negative.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crt._messages import printable
from crt.data._names import check_names, clean_name, natural
from crt.data._photos import Entry, tails

__all__ = ["is_fiftyone", "read_fiftyone"]

_log = logging.getLogger(__name__)
LISTS = ("classifications", "detections", "polylines", "keypoints")
KINDS = (
    "Classification", "Classifications", "Detection", "Detections", "Polyline", "Polylines", "Keypoint", "Keypoints",
)  # fmt: skip


def is_fiftyone(content: Any) -> bool:
    """Whether a JSON's content is one of the two."""
    return isinstance(content, dict) and (isinstance(content.get("labels"), dict) or "samples" in content)


def read_fiftyone(
    content: dict[str, Any], table: Path, class_names: Sequence[str] | None = None
) -> tuple[list[Entry], list[str]]:
    """The photos of an export, and the class names: the given ones, its "classes", or those that occur.

    Of ``samples.json`` the field ``ground_truth`` is read, or the only field that holds labels.

    Raises:
        ValueError: what cannot be understood, with its place.
    """
    shown = printable(table)
    declared = content.get("classes")
    if declared is not None and not (isinstance(declared, list) and all(isinstance(name, str) for name in declared)):
        raise ValueError(f"{shown}: expected 'classes', a list of names.")
    if isinstance(content.get("labels"), dict):
        found = list(_labels(content["labels"], declared or [], shown))
    else:
        found = list(_samples(content["samples"], shown))
    entries = [entry for entry in found if entry is not None]
    if len(entries) < len(found):
        _log.warning("%s: %d samples without labels are left out", shown, len(found) - len(entries))
    names = declared or sorted({name for entry in entries for name in entry.labels}, key=natural)
    if class_names is None:
        check_names(names, shown)
    return entries, list(class_names or names)


def _labels(labels: dict[str, Any], declared: list[str], shown: str) -> Iterator[Entry | None]:
    """Each photo's class, as an index or a name; or a list of either, or of objects with a "label".

    Photos go by their paths without suffix, or by absolute paths.
    """
    for file, value in labels.items():
        where, found = f"{shown}, labels[{printable(file)!r}]", []
        for item in value if isinstance(value, list) else [value]:
            label = item.get("label") if isinstance(item, dict) else item
            if isinstance(label, bool) or not isinstance(label, int | str | None):
                raise ValueError(f"{where}: expected a class, got {printable(type(label).__name__)}.")
            if isinstance(label, int):
                if not 0 <= label < len(declared):
                    raise ValueError(f"{where}: there is no class {printable(label)} among {len(declared)} classes.")
                label = declared[label]
            found += [clean_name(label)] if label else []
        yield _entry(where, file, found) if value is not None else None


def _samples(samples: Any, shown: str) -> Iterator[Entry | None]:
    if not isinstance(samples, list):
        raise ValueError(f"{shown}: expected 'samples', a list.")
    for place, sample in enumerate(samples):
        if not isinstance(sample, dict) or not isinstance(sample.get("filepath"), str) or not sample["filepath"]:
            raise ValueError(f"{shown}, samples[{place}]: expected 'filepath', a text.")
    fields = {name for sample in samples for name, value in sample.items() if _holds_labels(value)}
    if "ground_truth" not in fields and len(fields) > 1:
        listed = ", ".join(map(printable, sorted(fields)))
        raise ValueError(f"{shown}: labels in the fields {listed}; keep one of them, or call one 'ground_truth'.")
    if samples and not fields:
        raise ValueError(f"{shown}: no field of the samples holds labels.")
    field = "ground_truth" if "ground_truth" in fields else next(iter(fields), "")
    for place, sample in enumerate(samples):
        where = f"{shown}, samples[{place}]"
        labels = _of(sample.get(field), where)
        yield None if labels is None else _entry(where, sample["filepath"], labels)


def _entry(where: str, file: str, labels: list[str]) -> Entry:
    places = tails(file) or [file]
    return Entry(where, places[0], labels, [f"data/{places[0]}", *places[1:], f"data/{places[-1]}"])


def _holds_labels(value: Any) -> bool:
    return isinstance(value, dict) and str(value.get("_cls")) in KINDS


def _of(value: Any, where: str) -> list[str] | None:
    """The names in a field of labels; None if it is empty."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected labels, got {printable(type(value).__name__)}.")
    items = next((value[name] for name in LISTS if isinstance(value.get(name), list)), [value])
    found = [item.get("label") if isinstance(item, dict) else None for item in items]
    if not all(isinstance(label, str) for label in found):
        raise ValueError(f"{where}: expected 'label', a text, in {printable(value.get('_cls', 'its labels'))}.")
    return [clean_name(label) for label in found if label]
