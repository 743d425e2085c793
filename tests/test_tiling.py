"""Cutting and merging are inverses, for any size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crt.cam.tiling import cut, merge, offsets


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    tile=st.integers(1, 16),
    data=st.data(),
)
def test_merge_undoes_cut(size, tile, data):
    stride = data.draw(st.integers(1, tile))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    back = merge(cut(x, tile, stride), size, tile, stride)
    assert back.shape == x.shape
    assert torch.equal(back, x)


@pytest.mark.parametrize("size", [(336, 336), (224, 448), (1, 500), (500, 1), (1, 1), (100, 901)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merge_undoes_cut_to_the_bit(size, dtype):
    x = torch.randn(1, 2, *size).to(dtype)
    assert torch.equal(merge(cut(x, 224, 112), size, 224, 112), x)


def test_training_crop_has_the_papers_four_tiles():
    x = torch.arange(336 * 336.0).view(1, 1, 336, 336)
    tiles = cut(x, 224, 112)
    corners = [(0, 0), (0, 112), (112, 0), (112, 112)]
    assert len(tiles) == 4
    for tile, (top, left) in zip(tiles, corners, strict=True):
        assert torch.equal(tile[0], x[0, 0, top : top + 224, left : left + 224])


def test_overlap_is_the_mean():
    tiles = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    merged = merge(tiles, (4, 6), 4, 2)
    assert merged[0, 0, 0].tolist() == [1, 1, 2, 2, 3, 3]


def test_last_tile_is_flush_with_the_border():
    assert offsets(500, 224, 112) == [0, 112, 224, 276]
    assert offsets(100, 224, 112) == [0]


def test_gradient_reaches_every_pixel():
    x = torch.randn(1, 1, 30, 50, requires_grad=True)
    merge(cut(x, 16, 8), (30, 50), 16, 8).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: offsets(0, 4, 2), "at least 1"),
        (lambda: offsets(8, 4, 5), "no gap"),
        (lambda: offsets(8, 4, 0), "no gap"),
        (lambda: cut(torch.zeros(3, 8, 8), 4, 2), "(B, C, H, W)"),
        (lambda: merge(torch.zeros(5, 1, 4, 4), (6, 4), 4, 2), "2 x 1 tiles"),
        (lambda: merge(torch.zeros(2, 1, 3, 4), (6, 4), 4, 2), "2 x 1 tiles"),
    ],
)
def test_wrong_sizes_are_named(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert message in str(caught.value)
