"""Refiners by name, alone and one after another."""

from collections.abc import Callable

from torch import Tensor, nn

from crt._messages import did_you_mean
from crt.refine.crf import DenseCRF
from crt.refine.pamr import PAMR

__all__ = ["Refiners", "create_refiner", "list_refiners"]

_BUILDERS: dict[str, Callable[[], nn.Module]] = {"crf": DenseCRF, "pamr": PAMR}


class Refiners(nn.Sequential):
    """Refiners one after another, itself a refiner."""

    def forward(self, image: Tensor, cam: Tensor) -> Tensor:  # type: ignore[override]
        """(B, 3, H, W) uint8 or floats in [0, 1], and (B, k, h, w) maps -> maps like these."""
        for refiner in self:
            cam = refiner(image, cam)
        return cam


def create_refiner(name: str) -> nn.Module:
    """A refiner with its default settings, in evaluation mode.

    Args:
        name: one of ``list_refiners``, or several joined by "+", applied from left to right.

    Raises:
        ValueError: an unknown name.
        ImportError: "crf" without the extra of that name.

    >>> create_refiner("pamr").max_side
    256
    """
    parts = []
    for part in name.split("+"):
        if part not in _BUILDERS:
            raise ValueError(f"unknown refiner {part!r}.{did_you_mean(part, _BUILDERS)} crt.list_refiners() lists all.")
        parts.append(_BUILDERS[part]())
    return (parts[0] if len(parts) == 1 else Refiners(*parts)).eval()


def list_refiners() -> list[str]:
    """Names that ``create_refiner`` knows.

    >>> list_refiners()
    ['crf', 'pamr']
    """
    return sorted(_BUILDERS)
