"""What a network must offer to have its CAMs extracted."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from crt.cam.functional import Activation

__all__ = ["CAMModel"]


class CAMModel(Protocol):
    """What a network must offer to have its CAMs extracted: sizes, normalization, classes, and maps of tiles.

    Attributes:
        patch, tile, stride: sides of a patch and of a tile, and the distance between tiles, in pixels.
        mean, std: (3, 1, 1) float32, normalization for pixel values in [0, 1].
        num_classes, class_names: K, and K names or None.
        seed_threshold: background score at which masks are cut by default, 0 to 1.
        pool: share of a class map's cells, the highest, whose mean is the class's logit.
        activation: what a map of any sign says of its class, see ``crt.cam.functional.activate``.
    """

    patch: int
    tile: int
    stride: int
    num_classes: int
    class_names: Sequence[str] | None
    seed_threshold: float
    pool: float
    activation: Activation

    @property
    def mean(self) -> Tensor: ...

    @property
    def std(self) -> Tensor: ...

    @property
    def device(self) -> torch.device: ...

    def tile_maps(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(T, 3, tile, tile) normalized -> class maps (T, K, g, g) and their weights (T, 1, g, g), g = tile / patch.

        A model that can see a photo whole takes any (T, 3, H, W) of whole patches.
        """
