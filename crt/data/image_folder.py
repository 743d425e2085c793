"""A folder with a subfolder of photos for each class, and perhaps one for photos that show none of them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from crt._messages import printable
from crt.data._names import NEGATIVES, check_names, natural, unknown_class
from crt.data._photos import SUFFIXES, is_hidden, unique_names
from crt.data.sample import Sample

__all__ = ["read_folder"]

SPLITS = ("train", "training", "trainval", "val", "valid", "validation", "test", "testing")


def read_folder(
    root: str | os.PathLike[str], *, class_names: Sequence[str] | None = None, split: str | None = None
) -> tuple[list[Sample], list[str]]:
    """The photos of a folder that has a subfolder for each class, at any depth below it, by name.

    Photos in a subfolder ``negatives`` (or ``negative``, ``background``, ``none``) show none of the classes, unless
    ``class_names`` has that name.  Hidden folders and ``__MACOSX`` are passed over.

    Args:
        root: the folder.
        class_names: the K names in order; None takes the subfolders', sorted (2, 9, 10).
        split: where the subfolders are ``train``, ``valid``, ``test`` ... and the classes lie in these: which to read.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no subfolders, several splits, an unknown class, or a class without photos.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {printable(root)}; it holds a folder of photos for each class.")
    base = _of_split(root, split, class_names or ())
    folders = _subfolders(base)
    if not folders:
        raise ValueError(
            f"{printable(base)} has no subfolders; it should hold one for each class. Photos with a table of labels "
            "need that table, too (--labels)."
        )
    found = [
        folder for folder in folders if folder.casefold().strip("_") not in NEGATIVES or folder in (class_names or ())
    ]
    if class_names is None:
        check_names(found, printable(base))
    names = list(class_names or found)
    index = {name: i for i, name in enumerate(names)}
    files: dict[str, list[int]] = {}
    for folder in folders:
        if folder in found and folder not in index:
            raise ValueError(f"{printable(base / folder)}: {unknown_class(folder, names)}")
        photos = sorted(_photos(base / folder))
        if not photos:
            raise ValueError(f"{printable(base / folder)} has no photos ({', '.join(SUFFIXES)}).")
        files.update({f"{folder}/{file}": [index[folder]] if folder in found else [] for file in photos})
    both = zip(files.items(), unique_names(list(files)), strict=True)
    return [Sample(Path(base, file), name, labels) for (file, labels), name in both], names


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        found = [entry.name for entry in entries if not is_hidden(entry.name) and entry.is_dir()]
    return sorted(found, key=natural)


def _photos(folder: Path) -> Iterator[str]:
    """Paths of the photos below a folder."""
    stack = [""]
    while stack:
        path = stack.pop()
        with os.scandir(folder / path) as entries:
            for entry in entries:
                name = f"{path}/{entry.name}" if path else entry.name
                if is_hidden(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    stack.append(name)
                elif entry.name.lower().endswith(SUFFIXES) and (entry.is_symlink() or entry.is_file()):
                    yield name


def _of_split(root: Path, split: str | None, class_names: Sequence[str]) -> Path:
    """The folder of the classes: the root, or the split in it."""
    folders = _subfolders(root)
    words = [name for name in folders if name.casefold() in SPLITS and name not in class_names]
    splits = [name for name in words if _subfolders(root / name)]
    if split is not None:
        if split not in splits:
            there = ", ".join(splits) or "none"
            raise ValueError(f"{printable(root)} has no split {printable(split)!r}; there are {printable(there)}.")
        return root / split
    if not splits:
        return root
    if len(splits) == len(folders) == 1:
        return root / splits[0]
    raise ValueError(
        f"{printable(root)} has the splits {', '.join(splits)}, each with folders of classes"
        + (f", beside {', '.join(n for n in folders if n not in splits)}" if len(splits) < len(folders) else "")
        + f"; choose one: --list {splits[0]} (split={splits[0]!r}), or give {printable(root / splits[0])}."
    )
