"""``manifest.jsonl``: one JSON line for each mask, what it was made of; ``settings.json``: what all were made with.

Appending and rewriting happen under a lock on the file, so several processes on several machines share one manifest.
A line that is damaged is as good as none: its mask is made again.  Lines are read when they are asked for, so that
a job keeps 16 bytes of each.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from crt._files import require_regular, whole_file
from crt.jobs.entry import Entry, name_in, parse_line
from crt.jobs.fingerprint import JSON, differences
from crt.jobs.lines import LineIndex

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Manifest", "saved_settings"]

MANIFEST, SETTINGS = "manifest.jsonl", "settings.json"
_HEX = 16  # digits of the fingerprint in each line


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
        self._lines = LineIndex()
        self._file: BinaryIO | None = None
        if self.path.exists():
            require_regular(self.path)
            with self._locked():  # no line is half written
                end = self._open()
            if not self._read(end) and lead:
                self._rewrite()
        if lead:
            self._write_settings(dict(information))

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def get(self, name: str) -> Entry | None:
        """The line of a mask, as it was when the job began."""
        start = self._lines.find(name)
        if start is None or self._file is None:
            return None
        parsed = parse_line(_line_at(self._file, start))
        return parsed[0] if parsed is not None and parsed[0].file == name else None

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
        self.again += entry.file in self
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
            self._rewrite()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> int:
        """The manifest as it is now, from its start; its size."""
        if self._file is not None:
            self._file.close()
        self._file = open(self.path, "rb")  # noqa: SIM115
        return os.fstat(self._file.fileno()).st_size

    def _read(self, end: int) -> bool:
        """Finds the last valid line of each mask up to a place; whether there is nothing else before it."""
        self._lines, clean, start, count = LineIndex(), True, 0, 0
        for line in self._file or ():
            if start >= end:
                break  # others write while this process reads
            found = name_in(line)
            if found is None:
                clean = False
            else:
                name, fingerprint = found
                if fingerprint != self.fingerprint:
                    raise ValueError(self._refusal(fingerprint))
                self._lines.add(name, start)
                clean, count = clean and line.endswith(b"\n"), count + 1
            start += len(line)
        return clean and count == len(self._lines)

    def _rewrite(self) -> None:
        """One line a mask, in the order of the file; appears whole or not at all."""
        with self._locked():
            self._read(self._open())
            with whole_file(self.path) as temporary, open(temporary, "wb") as file, open(self.path, "rb") as source:
                for start in self._lines.starts():
                    file.write(_line_at(source, start) + b"\n")
            self._read(self._open())

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


def _line_at(file: BinaryIO, start: int) -> bytes:
    """The line that begins there, without its end; threads may call this at once."""
    size = 1024
    while True:
        line, end, _ = os.pread(file.fileno(), size, start).partition(b"\n")
        if end or len(line) < size:
            return line
        size *= 8


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
