"""What a network must offer to have its CAMs extracted."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from crt.cam.functional import Activation

__all__ = ["CAMModel", "TileMaps", "TransformerModel"]


class TileMaps(NamedTuple):
    """What a network computes on T tiles of h x w patches.

    Attributes:
        maps: (T, K, h, w) class maps, any sign.
        attention: (T, 1, h, w) by which they are multiplied.
        logits: (T, K) scores of a classifier beside the maps; None pools the maps.
        features: (T, D, h, w) by which maps are spread; None where the model does not spread.
    """

    maps: Tensor
    attention: Tensor
    logits: Tensor | None = None
    features: Tensor | None = None


class CAMModel(Protocol):
    """What a network must offer to have its CAMs extracted: sizes, normalization, classes, and maps of tiles.

    Attributes:
        patch, tile, stride: sides of a patch and of a tile, and the distance between tiles, in pixels.
        mean, std: (3, 1, 1) float32, normalization for pixel values in [0, 1].
        num_classes, class_names: K, and K names or None.
        seed_threshold: background score at which masks are cut by default, 0 to 1.
        pool: share of a class map's cells, the highest, whose mean is the class's logit.
        activation: what a map of any sign says of its class, see ``crt.cam.functional.activate``.
        spread: power of the affinity by which maps are spread (``crt.cam.spread``); 0 does not spread them.
        whole: photos are seen at once by default, not as tiles.
    """

    patch: int
    tile: int
    stride: int
    num_classes: int
    class_names: Sequence[str] | None
    seed_threshold: float
    pool: float
    activation: Activation
    spread: float
    whole: bool

    @property
    def mean(self) -> Tensor: ...

    @property
    def std(self) -> Tensor: ...

    @property
    def device(self) -> torch.device: ...

    def tile_maps(self, tiles: Tensor) -> TileMaps:
        """(T, 3, tile, tile) normalized -> maps of tile / patch cells a side.

        A model that can see a photo whole takes any (T, 3, H, W) of whole patches.
        """


class TransformerModel(CAMModel, Protocol):
    """A ``CAMModel`` whose patches are those of a vision transformer, as ``CRT`` is: its tokens refine maps, too.

    Attributes:
        backbone: timm's vision transformer.
        head: the layer that reads class maps off the patches; tells their dtype.
        prefix: number of tokens before the patches.
    """

    backbone: Any
    head: Any
    prefix: int

    def forward_features(self, x: Tensor) -> Tensor:
        """(T, 3, H, W) normalized, of whole patches -> tokens (T, prefix + N, D)."""
