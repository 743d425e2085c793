"""Writing files whole or not at all."""

import hashlib
import os
import platform
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["remove_leftovers", "tensors_digest", "whole_file", "write_tensors"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success it takes the name ``path``, on failure nothing is left.

    Raises:
        OSError: the folder cannot be written, the disk is full.
    """
    temporary = path.with_name(f".{platform.node()}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
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
            raise OSError(f"{path} cannot be written: {error}") from error


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
