"""Pictures of CAMs: overlays and contact sheets."""

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from crt.data.masks import palette

__all__ = ["contact_sheet", "draw_boxes", "overlay", "paint_mask", "under_title"]


def overlay(pixels: Tensor, maps: Tensor, labels: Sequence[int], *, alpha: float = 0.7) -> Image.Image:
    """A photo with its maps laid over it, its own colours half faded: the stronger a map, the more of its colour.

    Args:
        pixels: (3, H, W) uint8.
        maps: (k, h, w) float in [0, 1]; resized to the photo.
        labels: k class indices; each class always has the same bright colour.
        alpha: share of the colour where a map is 1.

    Returns:
        An RGB image of (H, W).
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be 0 to 1, got {alpha}.")
    photo = pixels.cpu().float()
    photo = (photo + photo.mean(dim=0, keepdim=True)) / 2
    for cam, label in zip(maps.cpu().float(), labels, strict=True):
        if cam.shape != photo.shape[-2:]:
            cam = F.interpolate(cam[None, None], photo.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
        photo = photo + alpha * cam.clamp(0, 1) * (_bright(label) - photo)
    return Image.fromarray(photo.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _bright(label: int) -> Tensor:
    """A saturated colour, (3, 1, 1) in [0, 255]; hues of neighbouring classes lie a golden section apart."""
    return 255 * torch.tensor(colorsys.hsv_to_rgb((0.02 + label * 0.618034) % 1.0, 0.95, 1.0)).view(3, 1, 1)


def paint_mask(mask: Tensor) -> Image.Image:
    """A (H, W) integer mask in VOC's colours."""
    return Image.fromarray(palette()[np.asarray(mask.cpu()).astype(np.int64) % 256])


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


def draw_boxes(
    picture: Image.Image, boxes: Sequence[Sequence[float]], colour: tuple[int, int, int], *, width: int = 2
) -> Image.Image:
    """A copy of the picture with boxes: x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""
    picture = picture.convert("RGB")
    pen = ImageDraw.Draw(picture)
    for x0, y0, x1, y1 in boxes:
        left, top = round(x0), round(y0)
        pen.rectangle((left, top, max(left, round(x1) - 1), max(top, round(y1) - 1)), outline=colour, width=width)
    return picture


def under_title(picture: Image.Image, title: str, *, width: int = 0, size: int = 13) -> Image.Image:
    """The picture below a white strip with its title in lines; white beside it, if it is not ``width`` pixels wide."""
    font, width = ImageFont.load_default(size), max(width, picture.width)
    lines, line = [], ""
    for word in title.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width - 8:
            lines.append(line)
            longer = word
        line = longer
    strip = len([*lines, line]) * (size + 4) + 6
    titled = Image.new("RGB", (width, picture.height + strip), "white")
    pen = ImageDraw.Draw(titled)
    for place, text in enumerate([*lines, line]):
        pen.text((4, 3 + place * (size + 4)), text, fill="black", font=font)
    titled.paste(picture.convert("RGB"), (0, strip))
    return titled
