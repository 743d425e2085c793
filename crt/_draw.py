"""Colours and lettering of pictures: one perceptual scale, class colours, captions, legends, name tags."""

import math
from collections.abc import Sequence
from functools import cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = [
    "Color",
    "add_caption",
    "class_color",
    "color_scale",
    "draw_caption",
    "draw_legend",
    "draw_scale_caption",
    "rescale",
    "tag_size",
    "wrap_text",
    "write_tag",
]

Color = tuple[int, int, int]


@cache
def class_color(index: int) -> Color:
    """The colour of class ``index``: neighbours' hues lie a golden section apart, in three lightnesses.

    Hues alone nearly repeat after 13 classes (VOC's bicycle and person).
    """
    lightness, hue = (0.72, 0.58, 0.84)[index % 3], 360 * ((0.08 + index * 0.618034) % 1)
    red, green, blue = _oklch_to_rgb(torch.tensor([lightness, 0.2, hue])).tolist()
    return round(red), round(green), round(blue)


@cache
def color_scale() -> Tensor:
    """(256, 3) sRGB in [0, 255]: lightness rises evenly, and the hue turns from blue over red to yellow."""
    t = torch.linspace(0, 1, 256)
    return _oklch_to_rgb(torch.stack([0.2 + 0.76 * t, 0.06 + 0.40 * t * (1 - t) + 0.07 * t, 280 + 190 * t], dim=-1))


def _oklch_to_rgb(color: Tensor) -> Tensor:
    """Lightness, chroma and hue in degrees (..., 3) -> sRGB in [0, 255].

    Oklab (Ottosson, "A perceptual color space for image processing", 2020) is a space in which equal distances look
    equal; the matrices are the inverse of its definition.
    """
    lightness, chroma, hue = color.unbind(dim=-1)
    hue = hue * math.pi / 180
    lab = torch.stack([lightness, chroma * hue.cos(), chroma * hue.sin()], dim=-1)
    cone = lab.new_tensor(
        [[1, 0.39633779, 0.21580376], [1, -0.10556134, -0.06385417], [1, -0.08948418, -1.29148554]],
    )
    rgb = lab.new_tensor(
        [
            [4.07674166, -3.30771159, 0.23096993],
            [-1.26843800, 2.60975740, -0.34131940],
            [-0.00419609, -0.70341861, 1.70761470],
        ]
    )
    linear = ((lab @ cone.T) ** 3 @ rgb.T).clamp(0, 1)
    return 255 * torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def tag_size(picture: Image.Image, text: str) -> tuple[int, int]:
    """(width, height) of the label that ``write_tag`` writes."""
    size = max(11, min(picture.size) // 22)
    return round(_font(size).getlength(text)) + size, size + size // 2


def write_tag(picture: Image.Image, text: str, place: tuple[int, int], color: Color) -> None:
    """Writes white text on a dark label with a bar of a colour, around (x, y) and inside the picture."""
    size = max(11, min(picture.size) // 22)
    pen = ImageDraw.Draw(picture)
    width, height = tag_size(picture, text)
    x = min(max(place[0] - width // 2, 0), max(picture.width - width, 0))
    y = min(max(place[1] - height // 2, 0), max(picture.height - height, 0))
    pen.rectangle((x, y, x + width, y + height), fill=(20, 20, 20))
    pen.rectangle((x, y, x + size // 4, y + height), fill=color)
    pen.text((x + size // 2 + size // 8, y + size // 5), text, fill="white", font=_font(size))


def add_caption(picture: Image.Image, caption: Image.Image, width: int) -> Image.Image:
    """The picture, brought to a width, below its caption."""
    picture = rescale(picture, width=width)
    cell = Image.new("RGB", (width, caption.height + picture.height), "white")
    cell.paste(caption, (0, 0))
    cell.paste(picture, (0, caption.height))
    return cell


def draw_caption(text: str, width: int, size: int = 16) -> Image.Image:
    """A text on a white strip, in as many lines as it needs."""
    lines = wrap_text(text, width, size)
    strip = Image.new("RGB", (width, len(lines) * (size + 6) + 4), "white")
    pen = ImageDraw.Draw(strip)
    for row, line in enumerate(lines):
        pen.text((0, 2 + row * (size + 6)), line, fill=(30, 30, 30), font=_font(size))
    return strip


def draw_scale_caption(text: str, width: int) -> Image.Image:
    """A heat map's title, with the colour scale from 0 to 1 on the right."""
    bar = min(100, width // 3)
    title = draw_caption(text, width - bar - 30)
    strip = Image.new("RGB", (width, title.height), "white")
    strip.paste(title, (0, 0))
    colors = color_scale()[torch.linspace(0, 255, bar).long()].round().byte()
    strip.paste(Image.fromarray(colors[None].expand(10, -1, -1).contiguous().numpy()), (width - bar - 12, 8))
    pen = ImageDraw.Draw(strip)
    pen.text((width - bar - 22, 6), "0", fill=(90, 90, 90), font=_font(12))
    pen.text((width - 9, 6), "1", fill=(90, 90, 90), font=_font(12))
    return strip


def draw_legend(classes: Sequence[tuple[str, int]], width: int, size: int = 16) -> Image.Image:
    """(name, class index) pairs beside squares of their colours, in as many lines as they need."""
    places, x, row = [], 0.0, 0
    for name, index in classes:
        length = size + 18 + _font(size).getlength(name)
        if x and x + length > width:
            x, row = 0.0, row + 1
        places.append((name, index, x, 2 + row * (size + 6)))
        x += length
    if not places:
        return draw_caption("background only", width, size)
    strip = Image.new("RGB", (width, (row + 1) * (size + 6) + 4), "white")
    pen = ImageDraw.Draw(strip)
    for name, index, x, y in places:
        pen.rectangle((x, y + 3, x + size - 4, y + size - 1), fill=class_color(index))
        pen.text((x + size + 1, y), name, fill=(30, 30, 30), font=_font(size))
    return strip


def wrap_text(text: str, width: int, size: int) -> list[str]:
    """A text in lines no longer than ``width`` pixels, where its words allow that."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and _font(size).getlength(longer) > width:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line]


def rescale(picture: Image.Image, *, width: int | None = None, height: int | None = None) -> Image.Image:
    """The picture in RGB at a given width or height, its proportions kept."""
    if width is not None:
        height = max(1, round(picture.height * width / picture.width))
    elif height is not None:
        width = max(1, round(picture.width * height / picture.height))
    return picture.convert("RGB").resize((width or picture.width, height or picture.height), Image.Resampling.LANCZOS)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
