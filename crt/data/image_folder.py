"""A folder with a subfolder of photos for each class."""

import os
from collections.abc import Sequence
from pathlib import Path

from crt._messages import did_you_mean
from crt.data._text import name_of
from crt.data.sample import Sample

__all__ = ["read_folder"]

PHOTOS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def read_folder(
    root: str | os.PathLike[str], *, class_names: Sequence[str] | None = None
) -> tuple[list[Sample], list[str]]:
    """The photos of a folder that has a subfolder for each class, at any depth below it, by name.

    Args:
        root: the folder.
        class_names: the K names in order; None takes the subfolders', sorted.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no subfolders, an unknown class, or a class without photos.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; it holds a folder of photos for each class.")
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not folders:
        raise ValueError(f"{root} has no subfolders; it should hold one for each class.")
    names = list(class_names) if class_names else [folder.name for folder in folders]
    samples = []
    for folder in folders:
        if folder.name not in names:
            raise ValueError(f"{folder}: unknown class {folder.name!r}.{did_you_mean(folder.name, names)}")
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PHOTOS and file.is_file())
        files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
        if not files:
            raise ValueError(f"{folder} has no photos ({', '.join(PHOTOS)}).")
        label = names.index(folder.name)
        samples += [Sample(file, name_of(file.relative_to(root).as_posix()), [label]) for file in files]
    return samples, names
