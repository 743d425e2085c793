"""Photos below a folder, found by the names that tables give them, and the samples made of them."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from crt._messages import did_you_mean, placed, printable
from crt.data._names import unknown_class
from crt.data.sample import Sample

__all__ = ["SUFFIXES", "Entry", "PhotoFinder", "is_hidden", "make_samples", "tails", "unique_names"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".mpo")


class Entry(NamedTuple):
    """A photo as a table has it.

    Attributes:
        where: "FILE, line N", for messages.
        file: its name in the table.
        labels: names of its classes; [] for a negative.
        others: other names it may go by, tried after ``file``.
        error: why it cannot be used, or "".
    """

    where: str
    file: str
    labels: list[str]
    others: Sequence[str] = ()
    error: str = ""


def is_hidden(name: str) -> bool:
    """Whether a folder or file is none of the user's: hidden, or left by an archiver or a file manager."""
    return name.startswith(".") or name in ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "lost+found")


def tails(path: str) -> list[str]:
    """A path that was made elsewhere, without its first folders: none, one, two ... and last the name alone."""
    parts = [part for part in path.replace("\\", "/").split("/") if part and not re.fullmatch(r"\.+|[A-Za-z]:", part)]
    return ["/".join(parts[i:]) for i in range(max(0, len(parts) - 20), len(parts))]


class PhotoFinder:
    """Finds photos below a folder without a look at each: a folder is listed once, when its first photo is asked for.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = os.path.abspath(root)
        self._folders: dict[str, set[str]] = {}
        self._stems: dict[str, dict[str, str]] = {}
        self._hints = 0

    def find(self, file: str, others: Iterable[str] = ()) -> str:
        """The photo's path below the root, as the file system has it.

        Raises:
            FileNotFoundError: it is not there; the message says what is near.
            ValueError: a path that leaves the folder.
        """
        for candidate in self._candidates(file, others):
            folder, _, name = candidate.rpartition("/")
            if name in self.listed(folder):
                return candidate
            if os.path.splitext(name)[1].lower() not in SUFFIXES and (there := self._stem(folder).get(name)):
                return f"{folder}/{there}" if folder else there
        raise FileNotFoundError(f"there is no photo at {printable(self.root / file.strip())}.{self._hint(file)}")

    def has(self, file: str) -> bool:
        """Whether a path below the root is a file, by this very name."""
        folder, _, name = file.rpartition("/")
        return name in self.listed(folder)

    def listed(self, folder: str) -> set[str]:
        """Names of the files in a folder below the root; none if it is not there."""
        if folder not in self._folders:
            try:
                with os.scandir(self.root / folder) as entries:
                    names = {entry.name for entry in entries if entry.is_symlink() or entry.is_file()}
            except (OSError, ValueError):  # ValueError: a null byte in the name
                names = set()
            self._folders[folder] = names
        return self._folders[folder]

    def _stem(self, folder: str) -> dict[str, str]:
        """{name without suffix: name} of the photos in a folder; those that two photos share are left out."""
        if folder not in self._stems:
            found: dict[str, str] = {}
            for name in self.listed(folder):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:
                    found[stem] = "" if stem in found else name
            self._stems[folder] = found
        return self._stems[folder]

    def _candidates(self, file: str, others: Iterable[str]) -> Iterator[str]:
        for name in (file, *others):
            for text in (name, name.strip(), name.strip().replace("\\", "/")):
                if (path := self.inside(text)) is not None:
                    yield path
        if "/" in (path := self.inside(file.strip().replace("\\", "/")) or ""):
            first, _, rest = path.partition("/")
            if first == os.path.basename(self._real):  # paths below the folder around this one
                yield rest

    def inside(self, file: str) -> str | None:
        """The path below the root, normal, or None if nothing is left of it.

        Raises:
            ValueError: it leaves the folder.
        """
        path = os.path.expanduser(file) if file.startswith("~") else file
        if re.match(r"[A-Za-z]:[/\\]|\\\\", path) or path.startswith("/"):
            if path != self._real and path.startswith(f"{self._real}{os.sep}"):
                path = path[len(self._real) + 1 :]
            else:
                raise ValueError(f"'{printable(file)}' leaves the folder of the photos; give a path below it.")
        if path.startswith("./") or "//" in path or path.endswith("/"):
            path = "/".join(part for part in path.split("/") if part not in ("", "."))
        if ".." in path and ".." in path.replace("\\", "/").split("/"):
            raise ValueError(f"'{printable(file)}' leaves the folder of the photos; give a path below it.")
        return path or None

    def _hint(self, file: str) -> str:
        folder, _, name = (self.inside(file.strip().replace("\\", "/")) or "").rpartition("/")
        there = self.listed(folder)
        self._hints += 1
        if self._hints > 5 or len(there) > 20_000 or len(name) > 255:  # looking for near names takes long
            return ""
        same = [other for other in there if other.casefold() == name.casefold()]
        stem = os.path.splitext(name)[0]
        same = same or [other for other in there if os.path.splitext(other)[0] == stem]
        return f" Did you mean {printable(same[0])!r}?" if same else did_you_mean(name, sorted(there))


def unique_names(files: Sequence[str]) -> list[str]:
    """A name for each photo, by which its mask is called: the path without suffix, or with it where two would agree."""
    names = [os.path.splitext(file)[0] for file in files]
    while True:
        seen: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            seen.setdefault(name, []).append(place)
        shared = [places for places in seen.values() if len(places) > 1]
        if not shared:
            return names
        for places in shared:
            for place in places:
                names[place] = files[place]


def make_samples(
    root: Path,
    entries: Iterable[Entry],
    class_names: Sequence[str],
    *,
    unusable: list[str] | None = None,
    finder: PhotoFinder | None = None,
) -> list[Sample]:
    """The samples of a table's entries.

    Args:
        root: the folder of the photos.
        entries: the photos; each once.
        class_names: the K classes, in order.
        unusable: takes what is wrong with entries that cannot be used, instead of raising it.
        finder: of the same folder, if there is one already.

    Raises:
        FileNotFoundError: a photo is not there.
        ValueError: an unknown class, a photo that stands there twice, a path that leaves the folder; with its place.
    """
    finder, index = finder or PhotoFinder(root), {name: i for i, name in enumerate(class_names)}
    unknown: dict[str, str] = {}
    found: dict[str, list[int]] = {}
    for entry in entries:
        try:
            if entry.error or not entry.file.strip():
                raise ValueError(entry.error or "a row needs a file.")
            file = finder.find(entry.file, entry.others)
            for name in entry.labels:
                if name not in index:
                    raise ValueError(unknown.get(name) or unknown.setdefault(name, unknown_class(name, index)))
            labels = sorted({index[name] for name in entry.labels})
            if found.setdefault(file, labels) is not labels:
                raise ValueError(
                    f"'{printable(entry.file)}' stands in the table twice; give all its labels in one row."
                )
        except (ValueError, FileNotFoundError) as error:
            if unusable is None:
                raise placed(error, entry.where) from error
            unusable.append(f"{entry.where}: {error}")
    names, base = unique_names(list(found)), str(root)
    both = zip(found.items(), names, strict=True)
    return [Sample(Path(base, file), name, labels) for (file, labels), name in both]
