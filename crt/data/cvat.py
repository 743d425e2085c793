"""CVAT's "for images" XML: classes are the labels of an image's tags, boxes, polygons and masks."""

from collections.abc import Sequence
from pathlib import Path

from crt._messages import printable
from crt.data._names import check_names, clean_name
from crt.data._photos import Entry, tails
from crt.data._xml import parse_xml

__all__ = ["read_cvat"]

SHAPES = ("tag", "box", "polygon", "polyline", "points", "ellipse", "mask", "cuboid", "skeleton")


def read_cvat(table: Path, class_names: Sequence[str] | None = None) -> tuple[list[Entry], list[str]]:
    """The images of an export, those without shapes as negatives, and the class names.

    Names are the given ones, or the task's labels in their order, or else those of the shapes, sorted.

    Raises:
        OSError: no such file, or not a regular file.
        ValueError: not CVAT's XML for images, with file and line.
    """
    entries: list[Entry] = []
    declared: list[str] = []
    shown = printable(table)

    def opened(path: list[str], attributes: dict[str, str], line: int) -> None:
        if path[0] != "annotations":
            raise ValueError(
                f"the root is <{printable(path[0])}>, not CVAT's <annotations>"
                + ("; VOC's XML is read from a folder in VOC's layout (--voc)" if path[0] == "annotation" else "")
            )
        if path[1:] == ["track"]:
            raise ValueError("<track> is of CVAT for video; export as 'CVAT for images'")
        if path[1:] == ["image"]:
            if not (file := attributes.get("name", "")):
                raise ValueError("an <image> without a name")
            within = [f"images/{file}", *tails(file)]
            if subset := attributes.get("subset"):  # of a project's export, whose tasks may share names
                within = [f"{subset}/{file}", f"images/{subset}/{file}", *within]
            entries.append(Entry(f"{shown}, line {line}", file, [], within))
        elif len(path) == 3 and path[1] == "image" and path[2] in SHAPES:
            if not (label := clean_name(attributes.get("label", ""))):
                raise ValueError(f"a <{path[2]}> has no label")
            entries[-1].labels.append(label)

    def closed(path: list[str], text: str) -> None:
        if path[1:2] == ["meta"] and path[-3:] == ["labels", "label", "name"] and text:
            declared.append(clean_name(text))
        if path[1:2] == ["meta"] and path[-3:] == ["labels", "label", "parent"] and text and declared:
            declared.pop()  # a point of a skeleton

    parse_xml(table, opened, closed)
    if not entries:
        raise ValueError(f"{shown} has no <image>; export as 'CVAT for images'.")
    found = {name for entry in entries for name in entry.labels}
    names = list(dict.fromkeys([*declared, *sorted(found)]))
    if class_names is None:
        check_names(names, shown)
    return entries, list(class_names or names)
