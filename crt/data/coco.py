"""COCO's instance annotations, read as JSON: labels need three of its lists and no geometry.

pycocotools would have to be compiled, and its indices leave no way to say which entry is wrong.
"""

import logging
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crt._messages import printable
from crt.data._names import check_names, clean_name
from crt.data._photos import Entry, PhotoFinder

__all__ = ["is_coco", "read_coco"]

_log = logging.getLogger(__name__)
_ROOTS = ("background", "none", "__background__", "_background_")


def is_coco(content: Any) -> bool:
    """Whether a JSON's content has a list of images or of annotations."""
    return isinstance(content, dict) and any(name in content for name in ("images", "annotations", "categories"))


def read_coco(
    content: Any, table: Path, finder: PhotoFinder, class_names: Sequence[str] | None = None
) -> tuple[list[Entry], list[str]]:
    """The photos of a COCO instance file with the classes of their annotations, crowds included, and the class names.

    Names are the given ones, onto which categories are mapped by name, or the categories' in the order of their ids,
    which may have gaps.  A category without annotations that is the supercategory of others, or the background, is
    not a class (Roboflow writes one, of id 0).  Photos without annotations are negatives; those of them that are not
    there are left out with a warning.

    Raises:
        ValueError: an entry that cannot be understood (with its list and place).
    """
    shown = printable(table)
    if not isinstance(content, dict):
        raise ValueError(f"{shown}: expected an object with images, annotations and categories.")
    categories = {number: clean_name(name) for number, name in _by_id(shown, content, "categories", "name").items()}
    files = _by_id(shown, content, "images", "file_name")
    owner: dict[str, int] = {}
    for number, file in files.items():
        if owner.setdefault(file, number) != number:
            raise ValueError(f"{shown}, images: '{printable(file)}' has two ids, {owner[file]} and {number}.")
    labels: dict[int, set[int]] = {number: set() for number in files}
    for place, entry in enumerate(_entries(shown, content, "annotations")):
        where = f"{shown}, annotations[{place}]"
        image, category = _field(where, entry, "image_id", int), _field(where, entry, "category_id", int)
        if image not in labels:
            raise ValueError(f"{where}: there is no image with the id {printable(image)}.")
        if category not in categories:
            raise ValueError(f"{where}: there is no category with the id {printable(category)}.")
        labels[image].add(category)
    shared = set[int]().union(*labels.values())
    if not shared:
        raise ValueError(f"{shown} has no image with an annotation.")
    names = _names(content, categories, shared, shown)
    if class_names is None:
        check_names(names, f"{shown}, categories")
    entries = [
        Entry(f"{shown}, images[{place}]", file, [categories[c] for c in sorted(labels[number])])
        for place, (number, file) in enumerate(files.items())
    ]
    return _without_missing(entries, finder), list(class_names or names)


def _names(content: dict[str, Any], categories: dict[int, str], used: set[int], shown: str) -> list[str]:
    above = {
        entry.get("supercategory") for entry in content["categories"] if entry.get("supercategory") != entry["name"]
    }
    kept = [n for n in sorted(categories) if n in used or (categories[n] not in above and categories[n] not in _ROOTS)]
    names = [categories[number] for number in kept]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shown}, categories: two of them have the same name, '{printable(twice)}'.")
    return names


def _without_missing(entries: list[Entry], finder: PhotoFinder) -> list[Entry]:
    """The entries without the negatives whose photos are not there."""
    kept = []
    for entry in entries:
        try:
            if not entry.labels:
                finder.find(entry.file)
            kept.append(entry)
        except FileNotFoundError:
            continue
    if len(kept) < len(entries):
        _log.warning("%d photos without annotations are not there and are left out", len(entries) - len(kept))
    return kept


def _entries(shown: str, content: dict[str, Any], name: str) -> list[Any]:
    entries = content.get(name)
    if not isinstance(entries, list):
        raise ValueError(f"{shown}: expected a list {name!r} beside {printable(', '.join(content)) or 'nothing'}.")
    return entries


def _field(where: str, entry: Any, name: str, kind: type) -> Any:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool) or value == "":
        got = printable(reprlib.repr(entry))
        raise ValueError(f"{where}: expected {name!r}, {'a number' if kind is int else 'a text'}, got {got}.")
    return value


def _by_id(shown: str, content: dict[str, Any], name: str, field: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for place, entry in enumerate(_entries(shown, content, name)):
        where = f"{shown}, {name}[{place}]"
        number = _field(where, entry, "id", int)
        if number in found:
            raise ValueError(f"{where}: the id {printable(number)} stands there twice.")
        found[number] = _field(where, entry, field, str)
    return found
