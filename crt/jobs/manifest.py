"""``manifest.jsonl``: one JSON line for each mask, what it was made of; ``settings.json``: what all were made with.

Appending and rewriting happen under a lock on the file, so several processes on several machines share one manifest.
A line that is damaged is as good as none: its mask is made again.  Lines are read when they are asked for, so that the
memory of a job is that of the names of its masks.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from crt._files import require_regular, whole_file
from crt.jobs.fingerprint import JSON, differences

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Entry", "Manifest", "Stamp", "saved_settings"]

MANIFEST, SETTINGS = "manifest.jsonl", "settings.json"
_HEX = 16  # digits of the fingerprint in each line


class Stamp(NamedTuple):
    """Identifies the content of a file: size and time of change tell it cheaply, the hash for certain."""

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """Reads the whole file."""
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            return cls(status.st_size, status.st_mtime_ns, digest.hexdigest())

    def holds(self, path: Path) -> bool:
        """Whether a file is still this one; it is read only where its time has changed and its size has not."""
        status = path.stat()
        if status.st_size != self.size:
            return False
        return status.st_mtime_ns == self.mtime_ns or Stamp.of(path).sha256 == self.sha256


class Entry(NamedTuple):
    """A line: a mask's name, the labels and the photo that it was made of, and its file."""

    file: str
    labels: list[int]
    photo: Stamp
    mask: Stamp

    def line(self, fingerprint: str) -> bytes:
        """The line with its end."""
        told: dict[str, object] = {"file": self.file, "labels": self.labels, "settings": fingerprint}
        for name, stamp in (("photo", self.photo), ("mask", self.mask)):
            told |= {f"{name}_{field}": value for field, value in stamp._asdict().items()}
        return json.dumps(told).encode() + b"\n"


class Manifest:
    """The lines of a folder's masks, and what they were made with.

    Args:
        folder: of the masks.
        settings: everything that changes a pixel, as JSON.
        information: what else is worth knowing (versions); it may differ.
        lead: this process may rewrite both files at the start; the others of its job only read and append.
        endings: of the files of each photo: the mask's, whose content the lines tell, and those of files beside it.

    Raises:
        ValueError: the folder holds masks of other settings; the message says which.
        OSError: a file cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, JSON],
        information: Mapping[str, JSON],
        *,
        lead: bool = True,
        endings: Sequence[str] = (".png",),
    ) -> None:
        self.folder, self.path, self.endings = folder, folder / MANIFEST, tuple(endings)
        self.settings: dict[str, JSON] = json.loads(json.dumps(settings))
        self.fingerprint = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:_HEX]
        self.again = 0  # masks that got a second line, which the last rewriting takes for the only one
        self._places: dict[str, tuple[int, int]] = {}
        self._file: BinaryIO | None = None
        if self.path.exists():
            require_regular(self.path)
            with self._locked():
                clean = self._read()
                if lead and not clean:
                    self._rewrite()
        if lead:
            self._write_settings(dict(information))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def get(self, name: str) -> Entry | None:
        """The line of a mask, as it was when the job began."""
        if name not in self._places or self._file is None:
            return None
        start, length = self._places[name]
        parsed = _parsed(os.pread(self._file.fileno(), length, start))
        return None if parsed is None else parsed[0]

    def has(self, name: str, labels: list[int], image: Path) -> bool:
        """Whether the mask is there, as its line tells, of this very photo and labels."""
        entry = self.get(name)
        try:
            return (
                entry is not None
                and entry.labels == labels
                and entry.mask.holds(self.folder / f"{name}{self.endings[0]}")
                and all((self.folder / f"{name}{ending}").exists() for ending in self.endings[1:])
                and entry.photo.holds(image)
            )
        except OSError:
            return False

    def add(self, entry: Entry) -> None:
        """Appends a line, whole or not at all."""
        self.again += entry.file in self._places
        line = entry.line(self.fingerprint)
        with self._locked(create=True) as descriptor:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # behind half a line of a process that was killed
            try:
                written = os.write(descriptor, line)
            except OSError as error:
                os.ftruncate(descriptor, size)
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            if written < len(line):
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        """Leaves one line a mask."""
        if self.again:
            with self._locked():
                self._read()
                self._rewrite()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> bool:
        """Finds the last valid line of each mask; whether there is nothing else in the file."""
        if self._file is not None:
            self._file.close()
        self._file = open(self.path, "rb")  # noqa: SIM115
        self._places, clean, start = {}, True, 0
        for line in self._file:
            parsed = _parsed(line)
            if parsed is None:
                clean = False
            else:
                entry, fingerprint = parsed
                if fingerprint != self.fingerprint:
                    raise ValueError(self._refusal(fingerprint))
                clean &= entry.file not in self._places and line.endswith(b"\n")
                self._places[entry.file] = (start, len(line))
            start += len(line)
        return clean

    def _rewrite(self) -> None:
        """One line a mask, in the order of the file; appears whole or not at all."""
        source = self._file
        if source is None:
            return
        with whole_file(self.path) as temporary, open(temporary, "wb") as file:
            places, start = {}, 0
            for name, (old, length) in self._places.items():
                line = os.pread(source.fileno(), length, old).rstrip(b"\n") + b"\n"
                file.write(line)
                places[name] = (start, len(line))
                start += len(line)
        source.close()
        self._file, self._places = open(self.path, "rb"), places  # noqa: SIM115

    @contextmanager
    def _locked(self, create: bool = False) -> Iterator[int]:
        """The manifest, open and locked; if another process has put a new one in its place, that one."""
        flags = os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0) | getattr(os, "O_NOFOLLOW", 0)
        while True:
            descriptor = os.open(self.path, flags, 0o666)
            try:
                if fcntl is not None:
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX)
                    except OSError as error:
                        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                            raise
                try:
                    current = os.path.samestat(os.fstat(descriptor), os.stat(self.path))
                except FileNotFoundError:
                    current = False
                if current:
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _write_settings(self, information: dict[str, JSON]) -> None:
        told = {"fingerprint": self.fingerprint, "settings": self.settings, "information": information}
        text = json.dumps(told, indent=1) + "\n"
        path = self.folder / SETTINGS
        if _settings_in(path).get("fingerprint") != self.fingerprint:
            with whole_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def _refusal(self, fingerprint: str | None) -> str:
        found = _settings_in(self.folder / SETTINGS)
        if fingerprint is not None and found.get("fingerprint") == fingerprint:
            details = ", ".join(differences(found.get("settings"), self.settings)[:8])
        elif fingerprint is None:
            details = "an older version of crt made them, which did not record all settings"
        else:
            details = f"{SETTINGS} does not tell which"
        return f"{self.folder} holds masks of other settings ({details}); choose another folder."


def saved_settings(folder: Path) -> dict[str, JSON]:
    """What the masks of a folder were made with; nothing where it does not say."""
    settings = _settings_in(folder / SETTINGS).get("settings")
    return settings if isinstance(settings, dict) else {}


def _settings_in(path: Path) -> dict[str, JSON]:
    try:
        told = json.loads(require_regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _parsed(line: bytes) -> tuple[Entry, str | None] | None:
    """Entry and fingerprint (None: of an older version) of a line, or None if it is damaged."""
    try:
        told = json.loads(line)
        file, labels = told["file"], told["labels"]
        if not isinstance(file, str) or not all(type(label) is int for label in labels):
            return None
        if "threshold" in told and "settings" not in told:  # as crt 0.1 wrote them, with some settings in each line
            photo, mask = (Stamp(-1, -1, told[f"{name}_sha256"]) for name in ("photo", "mask"))
            return Entry(file, labels, photo, mask), None
        photo, mask = (Stamp(*(told[f"{name}_{field}"] for field in Stamp._fields)) for name in ("photo", "mask"))
        numbers = (photo.size, photo.mtime_ns, mask.size, mask.mtime_ns)
        texts = (photo.sha256, mask.sha256, told["settings"])
        if not all(type(n) is int for n in numbers) or not all(isinstance(text, str) for text in texts):
            return None
        return Entry(file, list(labels), photo, mask), told["settings"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
