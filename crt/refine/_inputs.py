"""What every refiner accepts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from crt.cam.functional import resize

__all__ = ["checked_image", "resized"]


def checked_image(image: Tensor, cam: Tensor) -> Tensor:
    """The image of a refiner as float32 in [0, 1], after a look at the shapes of image and cam.

    Args:
        image: (B, 3, H, W), uint8 in [0, 255] or floating point in [0, 1].
        cam: (B, k, h, w), floating point; of any size.

    Returns:
        (B, 3, H, W) float32 (float64 stays) in [0, 1].
    """
    if image.ndim != 4 or image.shape[1] != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise ValueError(
            "expected an image of shape (B, 3, H, W), uint8 or floating point in [0, 1], got "
            f"{image.dtype} {tuple(image.shape)}."
        )
    if cam.ndim != 4 or len(cam) != len(image) or not cam.is_floating_point():
        raise ValueError(
            f"expected a floating-point cam of shape (B, k, h, w), a batch of {len(image)} as the image's, got "
            f"{cam.dtype} {tuple(cam.shape)}."
        )
    return image / 255 if image.dtype == torch.uint8 else image.to(torch.promote_types(image.dtype, torch.float32))


def resized(cam: Tensor, size: Sequence[int]) -> Tensor:
    """(B, k, h, w) at another size, bilinearly (align_corners=False); no maps at all stay none."""
    height, width = size
    return resize(cam.flatten(0, 1), (height, width)).view(*cam.shape[:2], height, width)
