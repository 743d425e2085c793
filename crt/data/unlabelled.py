"""Photos without labels: single files and folders."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from crt._messages import printable
from crt.data._photos import SUFFIXES, is_hidden, unique_names
from crt.data.sample import Sample

__all__ = ["list_photos"]


def list_photos(
    places: Sequence[str | os.PathLike[str]], *, without: str | os.PathLike[str] | None = None
) -> list[Sample]:
    """Photos as samples without labels.

    Args:
        places: files, named by their stem, and folders, whose photos are named by their path below them.  Where two
            names would agree, both keep their suffix (a.jpg and a.png) or get their folder's name (x/a and y/a).
        without: a folder inside one of ``places`` that is left out: that of the results.

    Raises:
        FileNotFoundError: a place does not exist.
        ValueError: a folder without photos, or two photos of one name all the same.
    """
    left_out = None if without is None else Path(without).resolve()
    found: dict[Path, tuple[Path, str]] = {}  # by the real path, so that each photo counts once
    for place in map(Path, places):
        if place.is_dir():
            names = _photos_below(place, left_out)
            if not names:
                raise ValueError(f"{printable(place)} has no photos ({', '.join(SUFFIXES)}).")
            for name in names:
                found.setdefault((place / name).resolve(), (place, name))
        elif not place.exists():
            raise FileNotFoundError(f"there is no photo or folder at {printable(place)}.")
        else:
            found.setdefault(place.resolve(), (place.parent, place.name))
    counts = Counter(name for _, name in found.values())
    names = [name if counts[name] == 1 else f"{root.resolve().name}/{name}" for root, name in found.values()]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"two photos would have the name {printable(twice[0])}; segment their folders one by one.")
    files = [root / name for root, name in found.values()]
    pairs = zip(files, unique_names(names), strict=True)
    return [Sample(image=file, name=name, labels=[]) for file, name in pairs]


def _photos_below(folder: Path, left_out: Path | None) -> list[str]:
    """Paths below a folder, with "/" between their parts, sorted."""
    found = []
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = [name for name in folders if not is_hidden(name) and (here / name).resolve() != left_out]
        for name in files:
            if name.lower().endswith(SUFFIXES) and not is_hidden(name):
                found.append((here / name).relative_to(folder).as_posix())
    return sorted(found)
