"""Refiners by name, alone and one after another."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from crt._messages import did_you_mean
from crt.refine.attention import AttentionAffinity
from crt.refine.crf import DenseCRF
from crt.refine.pamr import PAMR
from crt.refine.random_walk import RandomWalk

__all__ = ["Refiners", "create_refiner", "list_refiners"]

_NAMES = ("attention", "crf", "irn_lite0", "pamr")
_BUNDLED = Path(__file__).parents[1] / "weights" / "irn_lite0.voc9k"
_TOLERANCE = 1e-5  # of the walk: near the rounding of float32
_MAX_SIDE = 640  # as CAMExtractor's, and the largest that boundary networks are trained on by default


class Refiners(nn.Sequential):
    """Refiners one after another, itself a refiner."""

    def forward(self, image: Tensor, cam: Tensor) -> Tensor:  # type: ignore[override]
        """(B, 3, H, W) uint8 or floats in [0, 1], and (B, k, h, w) maps -> maps like these."""
        for refiner in self:
            cam = refiner(image, cam)
        return cam


def create_refiner(name: str, pretrained: bool = False, *, model: Any = None) -> nn.Module:
    """A refiner with its default settings, in evaluation mode.

    Args:
        name: one of ``list_refiners``; "local-dir:PATH", the random walk over a boundary network that
            ``crt train refine`` wrote to this folder (or safetensors file); or several of these joined by "+", applied
            from left to right.
        pretrained: "irn_lite0" takes its trained weights, not random ones; others have none.
        model: the ``CRT`` that made the maps: "attention" uses its attention, "crf" its background score.

    Raises:
        ValueError: an unknown name, "attention" without a model, or weights that do not fit.
        FileNotFoundError: there are no such weights.
        ImportError: "crf" without the extra of that name.

    >>> create_refiner("pamr").max_side
    256
    """
    parts = [_created(part, pretrained, model) for part in name.split("+")]
    return (parts[0] if len(parts) == 1 else Refiners(*parts)).eval()


def list_refiners() -> list[str]:
    """Names that ``create_refiner`` knows.

    >>> list_refiners()
    ['attention', 'crf', 'irn_lite0', 'pamr']
    """
    return sorted(_NAMES)


def _created(name: str, pretrained: bool, model: Any) -> nn.Module:
    if name == "pamr":
        return PAMR()
    if name == "crf":
        return DenseCRF() if model is None else DenseCRF(background=model.seed_threshold)
    if name == "attention":
        if model is None:
            raise ValueError(
                "the refiner 'attention' needs the model whose attention it is: create_refiner(..., model=...)."
            )
        return AttentionAffinity(model)
    if name == "irn_lite0":
        return _walk(_BUNDLED if pretrained else None)
    if name.startswith("local-dir:"):
        return _walk(Path(name.removeprefix("local-dir:")))
    raise ValueError(
        f"unknown refiner {name!r}.{did_you_mean(name, _NAMES)} crt.list_refiners() lists all; 'local-dir:PATH' is a "
        "boundary network of your own."
    )


def _walk(weights: Path | None) -> nn.Module:
    """The random walk over a boundary network: that of a folder, or the default one with random weights."""
    from crt.models import BoundaryNet  # here, so that other refiners do not wait for timm
    from crt.models.hub import from_path

    network = BoundaryNet() if weights is None else BoundaryNet.from_source(from_path(weights))
    return RandomWalk(network, tolerance=_TOLERANCE, max_side=_MAX_SIDE)
