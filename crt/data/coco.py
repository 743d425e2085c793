"""COCO's instance annotations, read as JSON: labels need three of its lists and no geometry.

pycocotools would have to be compiled, and its indices leave no way to say which entry is wrong.
"""

import json
import os
from pathlib import Path
from typing import Any

from crt._messages import placed
from crt.data._text import name_of
from crt.data.sample import Sample

__all__ = ["read_coco"]


def read_coco(folder: str | os.PathLike[str], table: str | os.PathLike[str]) -> tuple[list[Sample], list[str]]:
    """The photos of a COCO instance file and the classes of their annotations, crowds included.

    Classes are in the order of their category ids, which may have gaps.  Photos without annotations are left out.

    Raises:
        FileNotFoundError: no such file, or it names a photo that is not there.
        ValueError: not JSON (with the line), or an entry that cannot be understood (with its list and place).
    """
    table = Path(table)
    content = _load(table)
    categories = _by_id(table, content, "categories", "name", str)
    order = sorted(categories)
    names = [categories[number] for number in order]
    if len(set(names)) != len(names):
        raise ValueError(f"{table}, categories: two of them have the same name.")
    files = _by_id(table, content, "images", "file_name", str)
    owner: dict[str, int] = {}
    for number, file in files.items():
        if owner.setdefault(file, number) != number:
            raise ValueError(f"{table}, images: {file!r} has two ids, {owner[file]} and {number}.")
    labels: dict[int, set[int]] = {number: set() for number in files}
    index = {number: place for place, number in enumerate(order)}
    for place, entry in enumerate(_entries(table, content, "annotations")):
        where = f"{table}, annotations[{place}]"
        image, category = _field(where, entry, "image_id", int), _field(where, entry, "category_id", int)
        if image not in labels:
            raise ValueError(f"{where}: there is no image with the id {image}.")
        if category not in index:
            raise ValueError(f"{where}: there is no category with the id {category}.")
        labels[image].add(index[category])
    found = [(files[number], sorted(shown)) for number, shown in labels.items() if shown]
    if not found:
        raise ValueError(f"{table} has no image with an annotation.")
    return [_sample(Path(folder), table, *pair) for pair in found], names


def _sample(folder: Path, table: Path, file: str, labels: list[int]) -> Sample:
    if not (folder / file).is_file():
        raise FileNotFoundError(f"{table}: there is no photo at {folder / file}.")
    try:
        return Sample(folder / file, name_of(file), labels)
    except ValueError as error:
        raise placed(error, f"{table}, images") from error


def _load(table: Path) -> dict[str, Any]:
    if not table.is_file():
        raise FileNotFoundError(f"there is no file at {table}; it holds COCO's instance annotations as JSON.")
    try:
        content = json.loads(table.read_bytes())
    except json.JSONDecodeError as error:
        raise ValueError(f"{table}, line {error.lineno}: not JSON: {error.msg}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{table}: not a text in UTF-8 ({error.reason} at byte {error.start}).") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{table}: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{table}: expected an object with images, annotations and categories.")
    return content


def _entries(table: Path, content: dict[str, Any], name: str) -> list[Any]:
    entries = content.get(name)
    if not isinstance(entries, list):
        raise ValueError(f"{table}: expected a list {name!r} beside {', '.join(content) or 'nothing'}.")
    return entries


def _field(where: str, entry: Any, name: str, kind: type) -> Any:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool) or value == "":
        raise ValueError(f"{where}: expected {name!r}, {'a number' if kind is int else 'a text'}, got {entry!r:.80}.")
    return value


def _by_id(table: Path, content: dict[str, Any], name: str, field: str, kind: type) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for place, entry in enumerate(_entries(table, content, name)):
        where = f"{table}, {name}[{place}]"
        number = _field(where, entry, "id", int)
        if number in found:
            raise ValueError(f"{where}: the id {number} stands there twice.")
        found[number] = _field(where, entry, field, kind)
    return found
