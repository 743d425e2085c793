"""Pictures of maps and masks."""

import numpy as np
import pytest
import torch
from PIL import Image

from crt.viz import contact_sheet, overlay, paint_mask


def test_overlay_colours_where_the_map_is():
    pixels = torch.full((3, 20, 30), 100, dtype=torch.uint8)
    maps = torch.zeros(2, 20, 30)
    maps[0, :, :10] = 1
    maps[1, :, 20:] = 1
    picture = np.asarray(overlay(pixels, maps, [7, 14], alpha=1.0)).astype(int)
    assert picture.shape == (20, 30, 3)
    assert (picture[:, 10:20] == 100).all()
    assert (picture[0, 0] != picture[0, 29]).any()
    assert picture[0, 0].max() == picture[0, 29].max() == 255
    assert overlay(pixels, maps[:, :5, :5], [7, 14]).size == (30, 20)
    assert overlay(pixels, maps[:0], []).size == (30, 20)
    with pytest.raises(ValueError, match="alpha"):
        overlay(pixels, maps, [7, 14], alpha=2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_masks_have_vocs_colours(dtype):
    picture = np.asarray(paint_mask(torch.tensor([[0, 1, 15]], dtype=dtype)))
    assert picture.tolist() == [[[0, 0, 0], [128, 0, 0], [192, 128, 128]]]


def test_contact_sheet():
    rows = [[Image.new("L", (10, 20)), Image.new("RGB", (40, 20))], [Image.new("RGB", (20, 40))]]
    assert contact_sheet(rows, height=20, gap=2).size == (10 + 2 + 40, 42)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([[]])
