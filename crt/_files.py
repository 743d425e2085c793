"""Files read only if they are files, written whole or not at all, and folders locked by one job at a time."""

import errno
import hashlib
import json
import os
import platform
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from crt._messages import printable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "ignores_case",
    "lock_folder",
    "remove_leftovers",
    "require_regular",
    "tensors_digest",
    "whole_file",
    "write_tensors",
]

LOCK = ".lock"


def require_regular(path: str | os.PathLike[str]) -> Path:
    """The path, if it is a regular file (or a link to one); reading anything else may never end.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is a folder, pipe, device or socket, or it cannot be looked at.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file", printable(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OSError(f"{printable(path)} cannot be opened: {reason}") from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(mode), "device")
        raise OSError(f"{printable(path)} is not a regular file but a {kind}.")
    return path


@contextmanager
def lock_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Holds ``folder/.lock`` while a job writes there; the system lets go of it when the process ends, however it ends.

    The file stays, with the last holder in it.  Where the system has no such locks (Windows, some network folders) the
    job runs without one.

    Raises:
        BlockingIOError: another process holds it; the message says which, where and since when.
        OSError: the lock file cannot be written.
    """
    path = Path(folder) / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(errno.EWOULDBLOCK, _held_by(descriptor), printable(Path(folder))) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
        holder = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def ignores_case(folder: Path) -> bool:
    """Whether the file system takes names that differ in case alone for one, as found out by ``folder/.lock``."""
    (folder / LOCK).touch()
    return (folder / LOCK.upper()).exists()


def _held_by(descriptor: int) -> str:
    """Who holds a lock, read from its file."""
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        who = f"process {holder['pid']} on {printable(holder['host'])}, since {printable(holder['since'])}"
    except (ValueError, TypeError, KeyError, RecursionError):
        who = "another process"
    return f"another job is writing to this folder ({who}); wait until it ends, or choose another folder"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success it takes the name ``path``, on failure nothing is left.

    Raises:
        OSError: the folder cannot be written, the disk is full; it names ``path``.
    """
    temporary = path.with_name(f".{platform.node()}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), temporary):
            raise  # it says where, or is not the system's
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # the folder itself may be gone
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Removes, below a folder, what processes of this machine had half written when they were killed."""
    if os.name != "posix":
        return  # nowhere else does signal 0 ask whether a process is there
    for part in folder.rglob(f".{platform.node()}.*.part"):
        try:
            os.kill(int(part.name.split(".")[-3]), 0)
        except ProcessLookupError:
            part.unlink(missing_ok=True)
        except (ValueError, PermissionError):
            continue  # no file of ours, or somebody else's process


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as temporary:
        try:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"{printable(path)} cannot be written: {printable(error, 300)}") from error


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
