"""What every refiner asks of its two inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from crt.images import resize, shrink_factor

__all__ = ["check_pair", "reduced_size", "resized"]


def check_pair(image: Tensor, cam: Tensor) -> None:
    """Raises ValueError or TypeError unless they are (B, 3, H, W) and (B, k, h, w) with floating point maps."""
    if image.ndim != 4 or image.shape[1] != 3 or cam.ndim != 4 or image.shape[0] != cam.shape[0]:
        raise ValueError(
            "a refiner takes images of shape (B, 3, H, W) and maps of shape (B, k, h, w), "
            f"got {tuple(image.shape)} and {tuple(cam.shape)}."
        )
    if not cam.is_floating_point():
        raise TypeError(f"maps are floating point, got {cam.dtype}.")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"images are uint8, or floating point in [0, 1]; got {image.dtype}.")


def reduced_size(image: Tensor, max_side: int | None) -> tuple[int, int]:
    """(H, W) of (B, 3, H, W), or of what it is with its longer side reduced to ``max_side`` pixels."""
    height, width = image.shape[-2:]
    shrink = shrink_factor(height, width, max_side)
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def resized(x: Tensor, size: Sequence[int], *, antialias: bool = False) -> Tensor:
    """(B, C, h, w) at another size, bilinearly (align_corners=False); no maps at all stay none."""
    height, width = size
    return resize(x.flatten(0, 1), (height, width), antialias=antialias).view(*x.shape[:2], height, width)
