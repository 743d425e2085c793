"""From maps to a mask: the likeliest class where it beats the background, cut at one threshold or two."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from crt.cam import CAMResult, mask_from_cam

__all__ = ["Cleaner", "cut_mask"]

Cleaner: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]


def cut_mask(
    result: CAMResult, refiner: nn.Module | None, low: float, high: float, clean: Cleaner | None = None
) -> Tensor:
    """The pseudo mask of a photo, (H, W) uint8: 0 background, class i as i + 1, 255 unsure.

    Args:
        result: the photo and its maps.
        refiner: makes the maps better, or None.
        low, high: background scores; scores between them are unsure.
        clean: cleans the mask cut at each threshold, as for ``make_pseudo_masks``.

    Raises:
        FloatingPointError: a map has NaN or infinite values, before refinement or after it.
    """
    _check_finite(result.maps, "the maps have NaN or infinite values: check the model's weights, mean and std")
    cam = result.refined(refiner).cam
    _check_finite(cam, "the refined maps have NaN or infinite values: check the refiner's weights and settings")
    if clean is not None and len(cam):
        return _cleaned(result, cam, low, high, clean)
    mask = mask_from_cam(cam, result.labels, high)
    if low < high and len(cam):
        best = cam.amax(dim=0)
        mask[(best >= low) & (best <= high)] = 255
    return mask


def _check_finite(maps: Tensor, message: str) -> None:
    if not torch.isfinite(maps).all():
        raise FloatingPointError(message)


def _cleaned(result: CAMResult, cam: Tensor, low: float, high: float, clean: Cleaner) -> Tensor:
    """(H, W) uint8: classes by the higher threshold, background by both; each mask cleaned on its own."""
    places = range(cam.shape[0])
    foreground = clean(result.pixels, mask_from_cam(cam, places, high), len(cam) + 1).long()
    background = clean(result.pixels, mask_from_cam(cam, places, low), len(cam) + 1) if low < high else foreground
    values = torch.tensor([255, *(i + 1 for i in result.labels)], dtype=torch.uint8, device=foreground.device)
    return values[foreground].masked_fill((foreground == 0) & (background == 0), 0)
