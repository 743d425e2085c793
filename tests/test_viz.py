"""Pictures of maps and masks."""

import numpy as np
import pytest
import torch
from PIL import Image

from crt._draw import class_color, color_scale
from crt.viz import contact_sheet, draw_mask, heat_map, overlay, paint_mask, panel, under_title


def values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


@pytest.fixture
def grey():
    return torch.full((3, 60, 90), 100, dtype=torch.uint8)


def test_overlay_colours_where_the_map_is(grey):
    maps = torch.zeros(2, 60, 90)
    maps[0, :, :30] = 1
    maps[1, :, 60:] = 1
    picture = values(overlay(grey, maps, [7, 14], alpha=1.0))
    assert picture.shape == (60, 90, 3)
    assert (picture[:, 30:60] == 100).all()
    assert tuple(picture[0, 0]) == class_color(7) and tuple(picture[0, 89]) == class_color(14)
    assert overlay(grey, maps[:, :5, :5], [7, 14]).size == (90, 60)
    assert overlay(grey, maps[:0], []).size == (90, 60)
    with pytest.raises(ValueError, match="alpha"):
        overlay(grey, maps, [7, 14], alpha=2)


def test_classes_differ_and_none_is_dark_or_pale():
    colors = torch.tensor([class_color(i) for i in range(20)], dtype=torch.float)
    assert (colors[1:] - colors[:-1]).norm(dim=1).min() > 100
    assert torch.pdist(colors).min() > 30  # hues alone nearly repeat: VOC's bicycle and person
    luma = colors @ torch.tensor([0.299, 0.587, 0.114])
    assert luma.min() > 80 and luma.max() < 220


def test_heat_maps_rise_in_lightness(grey):
    luma = color_scale() @ torch.tensor([0.299, 0.587, 0.114])
    assert (luma.diff() > 0).all() and luma[0] < 30 and luma[-1] > 220
    ramp = torch.linspace(0, 1, 90).expand(60, 90)
    picture = values(heat_map(grey, ramp, alpha=1.0))
    assert np.allclose(picture[0, 0], color_scale()[0].numpy(), atol=1)
    assert np.allclose(picture[0, 89], color_scale()[255].numpy(), atol=1)
    assert heat_map(grey, ramp[:6, :9]).size == (90, 60)


def test_masks_are_translucent_outlined_and_named(grey):
    mask = torch.zeros(60, 90, dtype=torch.uint8)
    mask[10:50, 10:50] = 3
    mask[10:50, 60:80] = 255
    plain = values(draw_mask(grey, mask, ["a", "b", "c"], tags=False))
    assert (plain[:10] == 100).all()  # the background is the photo
    inside, edge = plain[30, 30], plain[10, 30]
    assert np.allclose(inside, (100 + np.array(class_color(2))) / 2, atol=1)
    assert np.allclose(edge, 0.85 * np.array(class_color(2)), atol=1)
    unsure = plain[10:50, 60:80]
    assert (unsure == 255).any() and (unsure == 100).any()
    tagged = values(draw_mask(grey, mask, ["a", "b", "c"]))
    assert (tagged[10:50, 10:50] == 20).any()  # the label's ground
    with pytest.raises(ValueError, match="does not fit"):
        draw_mask(grey, mask[1:])


def test_a_name_does_not_hide_a_small_region(grey):
    mask = torch.zeros(60, 90, dtype=torch.uint8)
    mask[40:50, 40:60] = 1
    named, plain = (values(draw_mask(grey, mask, ["sheep"], tags=tags)) for tags in (True, False))
    assert (named[40:50, 40:60] == plain[40:50, 40:60]).all() and (named != plain).any()


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_panels_have_the_width_asked_for(grey, count):
    labels = list(range(count))
    maps = torch.rand(count, 15, 22, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(60, 90, dtype=torch.int64)
    if count:
        mask[:20, :20] = 1
    picture = panel(grey, maps, labels, mask, [f"class {i}" for i in range(7)], scores=[0.5] * count, width=1000)
    assert picture.width == 1000 and picture.height < 1000
    assert panel(grey, maps, labels, mask).width == 1000


@pytest.mark.parametrize(("size", "count", "low"), [((60, 90), 3, 120), ((60, 90), 4, 200), ((20, 120), 2, 200)])
def test_panels_are_filled(size, count, low):
    """Five pictures are one row, six are two rows of three, and those of a wide photo are large enough to be seen."""
    photo, maps = torch.zeros(3, *size, dtype=torch.uint8), torch.zeros(count, *size)
    picture = values(panel(photo, maps, list(range(count)), torch.zeros(size, dtype=torch.int64)))
    assert low < picture.shape[0] < 3 * low
    assert (picture[-5:, -9:-5] < 128).all()  # the last row ends at the right


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_masks_have_vocs_colours(dtype):
    picture = values(paint_mask(torch.tensor([[0, 1, 15]], dtype=dtype)))
    assert picture.tolist() == [[[0, 0, 0], [128, 0, 0], [192, 128, 128]]]


def test_contact_sheet():
    rows = [[Image.new("L", (10, 20)), Image.new("RGB", (40, 20))], [Image.new("RGB", (20, 40))]]
    assert contact_sheet(rows, height=20, gap=2).size == (10 + 2 + 40, 42)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([[]])


def test_titles_stand_above_the_picture():
    picture = Image.new("RGB", (100, 20), "red")
    titled = under_title(picture, "a title that needs more than one line of a narrow picture")
    assert titled.width == 100 and titled.height > 20 + 2 * 13
    assert titled.getpixel((50, titled.height - 1)) == (255, 0, 0)
    assert under_title(picture, "short", width=300).width == 300
