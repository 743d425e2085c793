"""The arithmetic of maps, against slow and obvious versions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from crt.cam import mask_from_cam
from crt.cam.functional import largest_component, merge_scales, normalize_cam, pool_maps, snapped_size


def test_normalise_divides_by_the_maximum_and_keeps_zero():
    cam = torch.stack([torch.tensor([[0.0, 2.0], [1.0, 4.0]]), torch.zeros(2, 2)])
    torch.testing.assert_close(normalize_cam(cam)[0], cam[0] / 4, rtol=1e-5, atol=1e-5)
    assert torch.equal(normalize_cam(cam)[1], torch.zeros(2, 2))
    assert normalize_cam(1e6 * cam).max() <= 1


@pytest.mark.parametrize(
    ("case", "expected"),
    [((375, 500, 1.0), (384, 512)), ((1, 1, 0.25), (16, 16)), ((160, 320, 0.1), (16, 32)), ((224, 224, 1), (224, 224))],
)
def test_snapped_size(case, expected):
    assert snapped_size(*case, 16) == expected


def test_one_scale_at_its_own_size_is_left_alone():
    cam = torch.rand(2, 5, 7)
    assert torch.equal(merge_scales([cam], (5, 7)), cam)
    with pytest.raises(ValueError, match="at least one"):
        merge_scales([], (5, 7))


def test_merging_commutes_with_mirroring():
    maps = [torch.rand(2, 3, 4), torch.rand(2, 6, 9)]
    mirrored = merge_scales([m.flip(-1) for m in maps], (20, 31))
    torch.testing.assert_close(mirrored, merge_scales(maps, (20, 31)).flip(-1))


@given(st.integers(0, 5), st.integers(0, 10**6), st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_mask_is_the_argmax_over_background_and_maps(count, seed, dtype):
    random = torch.Generator().manual_seed(seed)
    cam = (torch.randint(0, 9, (count, 4, 5), generator=random) / 8).to(dtype)  # coarse: there are ties
    labels = torch.randperm(400, generator=random)[:count].tolist()
    values = torch.tensor([0, *(label + 1 for label in labels)])
    expected = values[torch.cat([torch.full((1, 4, 5), 0.25, dtype=dtype), cam]).argmax(dim=0)]
    assert torch.equal(mask_from_cam(cam, labels, 0.25).long(), expected)


def test_a_map_that_is_nan_is_refused():
    cam = torch.tensor([[[float("nan"), float("nan")]], [[0.9, 0.1]]])
    with pytest.raises(ValueError, match="NaN or infinite"):
        mask_from_cam(cam, [4, 7], 0.15)


def test_mask_takes_the_highest_map_above_the_background():
    cam = torch.tensor([[[0.9, 0.3, 0.1]], [[0.2, 0.4, 0.15]]])
    assert mask_from_cam(cam, [4, 7], 0.15).tolist() == [[5, 8, 0]]
    assert mask_from_cam(cam[:0], [], 0.15).tolist() == [[0, 0, 0]]
    assert mask_from_cam(cam[:1], [254], 0.15).tolist() == [[255, 255, 0]]
    assert mask_from_cam(cam[:1], [999], 0.15).dtype == torch.int32
    with pytest.raises(ValueError, match="2 maps for 1"):
        mask_from_cam(cam, [4], 0.15)


def flood_components(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Oracle: one flood fill after another."""
    left, parts = {tuple(p) for p in np.argwhere(mask)}, []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            part.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        parts.append(part)
    return parts


@settings(max_examples=80, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_largest_component_is_one_of_the_largest(mask):
    found = {tuple(p) for p in largest_component(torch.from_numpy(mask)).nonzero().tolist()}
    parts = flood_components(mask)
    assert found in parts if parts else not found
    assert len(found) == max(map(len, parts), default=0)


def test_largest_component_follows_a_long_spiral():
    mask = torch.zeros(41, 41, dtype=torch.bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    assert torch.equal(largest_component(mask), mask)


@pytest.mark.parametrize(("share", "count"), [(1.0, 12), (0.5, 6), (0.1, 1), (0.001, 1)])
def test_pooled_is_the_mean_of_the_highest(share, count):
    maps = torch.randn(2, 3, 3, 4)
    torch.testing.assert_close(
        pool_maps(maps, share), maps.flatten(2).sort(-1, descending=True).values[..., :count].mean(-1)
    )
