"""FiftyOne's exports: ``labels.json`` of image classification data sets, ``samples.json`` of its own format."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from crt._messages import printable
from crt.data._names import check_names, clean_name, natural
from crt.data._photos import Entry

__all__ = ["is_fiftyone", "read_fiftyone"]

LISTS = ("classifications", "detections", "polylines", "keypoints")


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
        entries = list(_labels(content["labels"], declared or [], shown))
    else:
        entries = list(_samples(content["samples"], shown))
    names = declared or sorted({name for entry in entries for name in entry.labels}, key=natural)
    if class_names is None:
        check_names(names, shown)
    return entries, list(class_names or names)


def _labels(labels: dict[str, Any], declared: list[str], shown: str) -> Iterator[Entry]:
    """Each photo's class, as an index or a name; or a list of either, or of objects with a "label"."""
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
        yield Entry(where, file, found, [f"data/{file}"])


def _samples(samples: Any, shown: str) -> Iterator[Entry]:
    if not isinstance(samples, list):
        raise ValueError(f"{shown}: expected 'samples', a list.")
    field = ""
    for place, sample in enumerate(samples):
        where = f"{shown}, samples[{place}]"
        file = sample.get("filepath") if isinstance(sample, dict) else None
        if not isinstance(file, str) or not file:
            raise ValueError(f"{where}: expected 'filepath', a text.")
        fields = [name for name, value in sample.items() if isinstance(value, dict) and "_cls" in value]
        fields = [name for name in fields if name not in ("metadata", "_media_type")]
        fields = [name for name in fields if sample[name]["_cls"] != "ImageMetadata"]
        if "ground_truth" in sample:
            field = "ground_truth"
        elif len(fields) > 1:
            raise ValueError(f"{where}: labels in the fields {', '.join(map(printable, fields))}; keep one of them.")
        elif fields:
            field = fields[0]
        path = PurePosixPath(file.replace("\\", "/"))
        yield Entry(where, path.name, _of(sample.get(field), where), [f"data/{path.name}"])


def _of(value: Any, where: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected labels, got {printable(type(value).__name__)}.")
    items = next((value[name] for name in LISTS if isinstance(value.get(name), list)), [value])
    found = [item.get("label") if isinstance(item, dict) else None for item in items]
    if not all(isinstance(label, str) for label in found):
        raise ValueError(f"{where}: expected 'label', a text, in {printable(value.get('_cls', 'its labels'))}.")
    return [clean_name(label) for label in found if label]
