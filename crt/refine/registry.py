"""Refiners by name, alone and one after another."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from crt._messages import did_you_mean, printable
from crt.refine.affinity import FeatureAffinity
from crt.refine.attention import AttentionAffinity
from crt.refine.crf import DenseCRF
from crt.refine.pamr import PAMR
from crt.refine.random_walk import RandomWalk

if TYPE_CHECKING:
    from crt.models import CRT

__all__ = ["Refiners", "create_refiner", "list_refiners"]

logger = logging.getLogger(__name__)

_ADDRESSES = ("local-dir:", "hf-hub:")
_BUNDLED = Path(__file__).parents[1] / "weights" / "irn_lite0.voc9k"
_TOLERANCE = 1e-5  # of the walk: near the rounding of float32
_MAX_SIDE = 640  # as CAMExtractor's, and the largest that boundary networks are trained on by default


def _required(name: str, model: "CRT | None") -> "CRT":
    if model is None:
        raise ValueError(f"the refiner {name!r} needs the model that made the maps: create_refiner(..., model=...).")
    return model


# By name, from the model that made the maps or None; a new refiner is a line here.
_BUILDERS: dict[str, Callable[["CRT | None"], nn.Module]] = {
    "affinity": lambda model: FeatureAffinity(_required("affinity", model)),
    "attention": lambda model: AttentionAffinity(_required("attention", model)),
    "crf": lambda model: DenseCRF() if model is None else DenseCRF(background=model.seed_threshold),
    # Maps that are spread over the photo already need less smoothing.
    "pamr": lambda model: PAMR(dilations=(1, 2, 4, 8)) if model is not None and model.spread else PAMR(),
}
_NAMES = (*_BUILDERS, "irn_lite0")
_NEXT = re.compile(rf"\+(?=(?:{'|'.join(_NAMES)})(?:\+|$)|{'|'.join(_ADDRESSES)})")  # where a path may end


class Refiners(nn.Sequential):
    """Refiners one after another, itself a refiner."""

    def forward(self, image: Tensor, cam: Tensor) -> Tensor:  # type: ignore[override]
        """(B, 3, H, W) uint8 or floats in [0, 1], and (B, k, h, w) maps -> maps like these."""
        for refiner in self:
            cam = refiner(image, cam)
        return cam


def create_refiner(name: str, pretrained: bool = False, *, model: "CRT | None" = None) -> nn.Module:
    """A refiner with its default settings, in evaluation mode.

    Args:
        name: one of ``list_refiners``; "local-dir:PATH" or "hf-hub:ORG/NAME", the random walk over a boundary network
            that ``crt train refine`` wrote; or several of these joined by "+", applied from left to right.  A "+" in a
            PATH is part of it, unless a refiner follows and there is no such path.
        pretrained: load trained weights; as with ``create_model``, a network without them is built with random ones,
            and a warning is logged.  "irn_lite0", "local-dir:" and "hf-hub:" have weights.
        model: the ``CRT`` that made the maps: "affinity" and "attention" use it, "crf" its background score, and "pamr"
            smooths less if it spreads its maps.  Its mode stays as it is.

    Raises:
        ValueError: an unknown name, a refiner that needs a model without one, or weights that do not fit.
        FileNotFoundError: there are no such weights.
        ImportError: "crf" without the extra of that name.

    >>> create_refiner("pamr").max_side
    256
    """
    parts = [_create(part, pretrained, model).eval() for part in _split(name)]
    return parts[0] if len(parts) == 1 else Refiners(*parts).eval()


def list_refiners() -> list[str]:
    """Names that ``create_refiner`` knows.

    >>> list_refiners()
    ['affinity', 'attention', 'crf', 'irn_lite0', 'pamr']
    """
    return sorted(_NAMES)


def _split(name: str) -> list[str]:
    """The parts of "a+b": a path goes on over each "+" for as long as it exists.

    >>> _split("pamr+local-dir:no/such+folder+crf")
    ['pamr', 'local-dir:no/such+folder', 'crf']
    """
    parts: list[str] = []
    rest: str | None = name
    while rest is not None:
        part, plus, after = rest.partition("+")
        if rest.startswith(_ADDRESSES):
            ends = [*(found.start() for found in _NEXT.finditer(rest)), len(rest)]
            prefix = next(address for address in _ADDRESSES if rest.startswith(address))
            there = [end for end in ends if Path(rest[len(prefix) : end]).expanduser().exists()]
            end = max(there) if there and prefix == "local-dir:" else ends[0]
            part, plus, after = rest[:end], rest[end : end + 1], rest[end + 1 :]
        parts.append(part)
        rest = after if plus else None
    return parts


def _create(name: str, pretrained: bool, model: "CRT | None") -> nn.Module:
    if name in _BUILDERS:
        return _BUILDERS[name](model)
    if name == "irn_lite0" or name.startswith(_ADDRESSES):
        return _create_walk(name, pretrained)
    raise ValueError(
        f"unknown refiner '{printable(name)}'.{did_you_mean(name, _NAMES)} crt.list_refiners() lists all; "
        "'local-dir:PATH' is a boundary network of your own."
    )


def _create_walk(name: str, pretrained: bool) -> nn.Module:
    """The random walk over a boundary network, with its trained weights or with random ones."""
    from crt.models import BoundaryNet  # here, so that other refiners do not wait for timm
    from crt.models.config import check_config
    from crt.models.hub import from_hub, from_path

    if name.startswith("hf-hub:"):
        source = from_hub(name.removeprefix("hf-hub:"), weights=pretrained)
    else:
        source = from_path(_BUNDLED if name == "irn_lite0" else name.removeprefix("local-dir:"))
    if pretrained:
        network = BoundaryNet.from_source(source)
    else:
        logger.warning("%s: built with random weights; pass pretrained=True to load the trained ones.", name)
        network = BoundaryNet(**check_config(source.config, BoundaryNet.config_table, source=source.name))
    return RandomWalk(network, tolerance=_TOLERANCE, max_side=_MAX_SIDE)
