"""What a job has to know of masks: how one photo becomes one."""

import os
from collections.abc import Iterator, Sequence
from typing import IO, Protocol, TypeVar

import torch
from torch import Tensor

from crt.data import Sample

__all__ = ["MaskMaker", "Picture"]

Made = TypeVar("Made")


class Picture(Protocol):
    """What can be saved as a PNG: a PIL image."""

    def save(self, file: str | os.PathLike[str] | IO[bytes], /, format: str | None = None) -> None: ...


class MaskMaker(Protocol[Made]):
    """How photos become masks.

    Attributes:
        device: where masks are computed.
        max_side: photos with a longer side (pixels) are reduced to it when they are read; None reads them as they are.
        endings: of the files written for each photo: that of the mask first, then that of the picture, if any.
    """

    device: torch.device
    max_side: int | None
    endings: Sequence[str]

    def needs(self, photo: Sample) -> bool:
        """Whether a photo has to be looked at; the mask of another is all background."""

    def stream(self, photos: Iterator[tuple[Tensor, list[int]]]) -> Iterator[Made]:
        """What is made of each (3, H, W) uint8 photo and its labels, in order."""

    def mask(self, made: Made) -> Tensor:
        """(H, W) uint8, or int32 beyond 254 classes."""

    def picture(self, made: Made) -> Picture | None:
        """A picture for people, or None."""
