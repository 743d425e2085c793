"""Pictures for people: heat maps, translucent masks, panels, contact sheets.

Every function takes plain tensors and returns a PIL image; nothing here knows a model or a data set.  Heat maps use
one perceptual colour scale, on which equal steps of a map look equally large; classes have bright colours of their own.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from crt._draw import (
    Color,
    add_caption,
    class_color,
    color_scale,
    draw_caption,
    draw_legend,
    draw_scale_caption,
    rescale,
    tag_size,
    write_tag,
)
from crt.masks import palette

__all__ = [
    "class_color",
    "contact_sheet",
    "draw_boxes",
    "draw_mask",
    "heat_map",
    "overlay",
    "paint_mask",
    "panel",
    "to_png",
    "under_title",
]

IGNORE = 255  # pixels of a mask whose class is unsure


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
        strength = alpha * _fit(cam, photo.shape[-2:])
        photo = photo + strength * (torch.tensor(class_color(label)).view(3, 1, 1) - photo)
    return _to_image(photo)


def heat_map(pixels: Tensor, cam: Tensor, *, alpha: float = 0.75) -> Image.Image:
    """A grey photo under one map, drawn on a perceptual colour scale from dark violet (0) to light yellow (1).

    Args:
        pixels: (3, H, W) uint8.
        cam: (h, w) float in [0, 1]; resized to the photo.
        alpha: opacity of the colours, 0 to 1.

    Returns:
        An RGB image of (H, W).
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be 0 to 1, got {alpha}.")
    grey = pixels.cpu().float().mean(dim=0, keepdim=True)
    levels = (_fit(cam.cpu().float(), pixels.shape[-2:]) * 255).round().long()
    colors = color_scale()[levels].permute(2, 0, 1)
    return _to_image((1 - alpha) * grey + alpha * colors)


def draw_mask(
    pixels: Tensor, mask: Tensor, names: Sequence[str] | None = None, *, alpha: float = 0.5, tags: bool = True
) -> Image.Image:
    """A photo with each class of a mask as a translucent region, outlined, with its name on it.

    Args:
        pixels: (3, H, W) uint8.
        mask: (H, W) integers; 0 = background, i + 1 = class i, 255 = unsure (hatched).
        names: names of all K classes; None writes the indices.
        alpha: opacity of the regions, 0 to 1.
        tags: write names.

    Returns:
        An RGB image of (H, W).

    Raises:
        ValueError: the mask is not of the photo's size.
    """
    mask = mask.cpu().long()
    if mask.shape != pixels.shape[-2:]:
        raise ValueError(f"a mask of {tuple(mask.shape)} does not fit a photo of {tuple(pixels.shape[-2:])}.")
    photo = pixels.cpu().float()
    present = [int(value) for value in mask.unique() if value and value != IGNORE]
    for value in present:
        color = torch.tensor(class_color(value - 1), dtype=torch.float32).view(3, 1, 1)
        inside = mask == value
        photo = torch.where(inside, photo + alpha * (color - photo), photo)
        photo = torch.where(_outline(inside), color * 0.85, photo)
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in mask.shape), indexing="ij")
    hatched = (mask == IGNORE) & ((rows + columns) % 8 < 2)
    photo = torch.where(hatched, torch.full_like(photo, 255.0), photo)
    picture = _to_image(photo)
    for value in present if tags else []:
        name = names[value - 1] if names is not None else str(value - 1)
        write_tag(picture, name, _tag_place(mask == value, tag_size(picture, name)), class_color(value - 1))
    return picture


def panel(
    pixels: Tensor,
    maps: Tensor,
    labels: Sequence[int],
    mask: Tensor,
    names: Sequence[str] | None = None,
    *,
    scores: Sequence[float] | None = None,
    legend: Sequence[int] | None = None,
    width: int = 1000,
) -> Image.Image:
    """Photo, one heat map a class, and the mask with its legend, in rows of at most five; fewer of a wide photo.

    Args:
        pixels: (3, H, W) uint8.
        maps: (k, h, w) float in [0, 1].
        labels: k class indices.
        mask: (H, W) integers; 0 = background, i + 1 = class i.
        names: names of all K classes; None writes the indices.
        scores: k probabilities in [0, 1], shown beside the names.
        legend: class indices that the legend lists, where the mask shows them; None takes ``labels``.
        width: of the whole, in pixels.

    Returns:
        An RGB image.
    """
    legend = labels if legend is None else legend
    called = {i: names[i] if names is not None else f"class {i}" for i in {*labels, *legend}}
    named = [called[i] for i in labels]
    titles = [name if scores is None else f"{name}  {scores[i]:.2f}" for i, name in enumerate(named)]
    photo = Image.fromarray(pixels.cpu().permute(1, 2, 0).contiguous().numpy())
    pictures = [photo, *(heat_map(pixels, cam) for cam in maps), draw_mask(pixels, mask, names, tags=False)]
    most = min(5, max(1, round(width / 90 * photo.height / photo.width)))  # none lower than 90 pixels or so
    columns = -(-len(pictures) // -(-len(pictures) // most))  # 6 are two rows of 3, not 5 and 1
    gap, side = 10, (width - 10 * (columns - 1)) // columns
    found = [(called[i], i) for i in legend if bool((mask == i + 1).any())]
    captions = [
        draw_caption("photo", side),
        *(draw_scale_caption(title, side) for title in titles),
        draw_legend(found, side),
    ]
    cells = [add_caption(picture, caption, side) for picture, caption in zip(pictures, captions, strict=True)]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    whole = Image.new("RGB", (width, sum(heights) + gap * (len(rows) - 1)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for place, cell in enumerate(row):
            whole.paste(cell, (place * (side + gap), top + height - cell.height))
        top += height + gap
    return whole


def paint_mask(mask: Tensor) -> Image.Image:
    """A (H, W) integer mask in VOC's colours."""
    return Image.fromarray(palette()[np.asarray(mask.cpu()).astype(np.int64) % 256])


def contact_sheet(rows: Sequence[Sequence[Image.Image]], *, height: int = 160, gap: int = 4) -> Image.Image:
    """Pictures in rows, all of one height, on white."""
    if not rows or not any(rows):
        raise ValueError("a contact sheet needs at least one picture.")
    scaled = [[rescale(picture, height=height) for picture in row] for row in rows]
    width = max(sum(picture.width + gap for picture in row) - gap for row in scaled)
    sheet = Image.new("RGB", (width, len(scaled) * (height + gap) - gap), "white")
    for y, row in enumerate(scaled):
        x = 0
        for picture in row:
            sheet.paste(picture, (x, y * (height + gap)))
            x += picture.width + gap
    return sheet


def draw_boxes(picture: Image.Image, boxes: Sequence[Sequence[float]], color: Color, *, width: int = 2) -> Image.Image:
    """A copy of the picture with boxes: x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""
    picture = picture.convert("RGB")
    pen = ImageDraw.Draw(picture)
    for x0, y0, x1, y1 in boxes:
        left, top = round(x0), round(y0)
        pen.rectangle((left, top, max(left, round(x1) - 1), max(top, round(y1) - 1)), outline=color, width=width)
    return picture


def under_title(picture: Image.Image, title: str, *, width: int = 0, size: int = 13) -> Image.Image:
    """The picture below a white strip with its title, on a canvas at least ``width`` pixels wide."""
    width = max(width, picture.width)
    strip = draw_caption(title, width - 8, size)
    titled = Image.new("RGB", (width, picture.height + strip.height), "white")
    titled.paste(strip, (4, 0))
    titled.paste(picture.convert("RGB"), (0, strip.height))
    return titled


def to_png(picture: Image.Image) -> bytes:
    """The picture as a PNG file, which is what a notebook shows."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


# Parts of pictures


def _fit(cam: Tensor, size: Sequence[int]) -> Tensor:
    """(h, w) -> (H, W) in [0, 1]."""
    if tuple(cam.shape) != tuple(size):
        cam = F.interpolate(cam[None, None], tuple(size), mode="bilinear", align_corners=False)[0, 0]
    return cam.nan_to_num().clamp(0, 1)


def _to_image(photo: Tensor) -> Image.Image:
    return Image.fromarray(photo.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _outline(inside: Tensor) -> Tensor:
    """The pixels of a region within a few pixels of its border, thicker on larger photos; (H, W) bool."""
    reach = max(1, round(max(inside.shape) / 300))
    outside = F.max_pool2d((~inside).float()[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0] > 0
    return inside & outside


def _tag_place(inside: Tensor, tag: tuple[int, int]) -> tuple[int, int]:
    """(x, y) of the middle of a region's name: in it, or above it if the name would hide much of it."""
    x, y = _deepest(inside)
    if int(inside.sum()) < 6 * tag[0] * tag[1]:
        top = int(inside.any(dim=1).nonzero()[0])
        y = top - tag[1] // 2 - 2 if top > tag[1] + 2 else y
    return x, y


def _deepest(inside: Tensor) -> tuple[int, int]:
    """(x, y) of a pixel far from the border of a region, where its name fits best."""
    left = inside.float()[None, None]
    step = max(1, min(inside.shape) // 64)
    while True:
        worn = 1 - F.max_pool2d(1 - F.pad(left, (step,) * 4), 2 * step + 1, stride=1)
        if not worn.any():
            break
        left = worn
    rows, columns = left[0, 0].nonzero().unbind(dim=1)
    middle = (rows - rows.float().mean()).square() + (columns - columns.float().mean()).square()
    nearest = int(middle.argmin())
    return int(columns[nearest]), int(rows[nearest])
