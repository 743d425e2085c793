"""What files hold, in few bytes, for data sets of any size."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from crt._files import require_regular

__all__ = ["digest_files"]

WHOLE = 4 << 30  # bytes of all files together that are read whole
END = 64 << 10


def digest_files(files: Sequence[Path], *, whole: int = WHOLE) -> Iterator[bytes]:
    """Size and SHA-256 of each file's content, in their order: of every byte, or of both ends if all are too large.

    Args:
        files: regular files.
        whole: bytes of all files together that are read whole.

    Raises:
        FileNotFoundError: one is not there.
        OSError: one cannot be read.
    """
    with ThreadPoolExecutor(8) as pool:  # hashing and reading let go of the interpreter
        sizes = list(pool.map(lambda file: os.stat(file).st_size, files))
        yield from pool.map(partial(_digest, ends=sum(sizes) > whole), files, sizes)


def _digest(file: Path, size: int, *, ends: bool) -> bytes:
    digest = hashlib.sha256(str(size).encode())
    with open(require_regular(file), "rb") as stream:
        if ends and size > 2 * END:
            digest.update(stream.read(END))
            stream.seek(size - END)
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.digest()
