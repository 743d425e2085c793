"""Pictures of CAMs: overlays and contact sheets."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from crt.data.masks import palette

__all__ = ["contact_sheet", "overlay", "paint_mask"]


def overlay(pixels: Tensor, maps: Tensor, colours: Sequence[int], *, alpha: float = 0.5) -> Image.Image:
    """A photo with its maps laid over it: the stronger a map, the more of its colour.

    Args:
        pixels: (3, H, W) uint8.
        maps: (k, h, w) float in [0, 1]; resized to the photo.
        colours: k indices into VOC's palette.
        alpha: share of the colour where a map is 1.

    Returns:
        An RGB image of (H, W).
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be 0 to 1, got {alpha}.")
    photo = pixels.cpu().float()
    for cam, index in zip(maps.cpu().float(), colours, strict=True):
        if cam.shape != photo.shape[-2:]:
            cam = F.interpolate(cam[None, None], photo.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
        colour = torch.from_numpy(palette()[index % 256]).float()[:, None, None]
        photo = photo + alpha * cam.clamp(0, 1) * (colour - photo)
    return Image.fromarray(photo.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def paint_mask(mask: Tensor) -> Image.Image:
    """A (H, W) integer mask in VOC's colours."""
    return Image.fromarray(palette()[np.asarray(mask.cpu()) % 256])


def contact_sheet(rows: Sequence[Sequence[Image.Image]], *, height: int = 160, gap: int = 4) -> Image.Image:
    """Pictures in rows, all of one height, on white."""
    if not rows or not any(rows):
        raise ValueError("a contact sheet needs at least one picture.")
    scaled = [
        [
            picture.convert("RGB").resize((max(1, round(picture.width * height / picture.height)), height))
            for picture in row
        ]
        for row in rows
    ]
    width = max(sum(picture.width + gap for picture in row) - gap for row in scaled)
    sheet = Image.new("RGB", (width, len(scaled) * (height + gap) - gap), "white")
    for y, row in enumerate(scaled):
        x = 0
        for picture in row:
            sheet.paste(picture, (x, y * (height + gap)))
            x += picture.width + gap
    return sheet
