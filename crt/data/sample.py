"""One record for every photo, whatever format it came in."""

from pathlib import Path
from typing import NamedTuple

__all__ = ["Box", "Sample"]

Box = tuple[float, float, float, float]


class Sample(NamedTuple):
    """A photo and what is known of it.

    Attributes:
        image: the file.
        name: the file's path in its data set, without suffix; the photo's mask is ``NAME.png``.
        labels: indices of the classes in it, sorted; [] is a negative, a photo known to show none of the classes.
        mask: a PNG (0 background, class i as i + 1, 255 unknown), or None.
        boxes: the objects' boxes, XYXY in pixels, x1 and y1 exclusive, or None where they are not known.
    """

    image: Path
    name: str
    labels: list[int]
    mask: Path | None = None
    boxes: list[Box] | None = None
