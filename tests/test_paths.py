"""Path affinity against the reference's tensors and against a walk over every pair of cells."""

import math

import pytest
import torch
from safetensors.torch import load_file

from crt.cam.paths import displacements, line, path_affinity

from .conftest import GOLDEN


def test_agrees_with_the_reference():
    golden = load_file(GOLDEN / "affinity_paths.safetensors")
    ours, known = path_affinity(golden["edge"], 5).flatten(2), displacements(5)
    theirs = {tuple(pair): golden["affinity"][:, p] for p, pair in enumerate(golden["search_dst"].tolist())}
    assert set(theirs) == set(known)
    for p, pair in enumerate(known):
        assert torch.equal(ours[:, p, golden["src"]], theirs[pair])


def near_line(dy, dx):
    """The cells that ``line`` names, by the distance of their centres from the line."""
    rows, columns = range(min(0, dy), max(0, dy) + 1), range(min(0, dx), max(0, dx) + 1)
    distance = {(y, x): abs(dx * y - dy * x) / math.hypot(dy, dx) for y in rows for x in columns}
    return [cell for cell, d in distance.items() if d < 1 - 1e-9]


@pytest.mark.parametrize("radius", [2, 3, 5, 10])
def test_lines_and_displacements(radius):
    pairs = displacements(radius)
    both = {(0, 0), *pairs, *((-dy, -dx) for dy, dx in pairs)}
    assert len(both) == 2 * len(pairs) + 1
    reach = range(-radius, radius + 1)
    assert both == {(dy, dx) for dy in reach for dx in reach if math.hypot(dy, dx) < radius}
    for dy, dx in pairs:
        assert line(dy, dx) == near_line(dy, dx)
        assert {(0, 0), (dy, dx)} <= set(line(dy, dx))


@pytest.mark.parametrize("radius", [2, 4, 7])
@pytest.mark.parametrize("size", [(7, 9), (1, 6), (5, 1)])
def test_every_pair_of_cells(radius, size):
    h, w = size
    boundary = torch.rand(2, 1, h, w)
    ours = path_affinity(boundary, radius)
    for p, (dy, dx) in enumerate(displacements(radius)):
        for y in range(h):
            for x in range(w):
                inside = y + dy < h and 0 <= x + dx < w
                cells = [boundary[:, 0, y + i, x + j] for i, j in near_line(dy, dx)] if inside else [torch.ones(2)]
                assert torch.equal(ours[:, p, y, x], 1 - torch.stack(cells).amax(dim=0))


def test_equal_boundaries_and_extremes():
    assert torch.equal(path_affinity(torch.ones(1, 1, 6, 6), 3), torch.zeros(1, 12, 6, 6))
    assert set(path_affinity(torch.zeros(1, 1, 6, 6), 3).unique().tolist()) == {0.0, 1.0}
    assert path_affinity(torch.full((1, 1, 6, 6), 0.25), 3)[0, :, 0, 3].unique().tolist() == [0.75]


def test_gradient():
    boundary = torch.rand(2, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: path_affinity(b, 4), (boundary,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    assert path_affinity(torch.rand(1, 1, 4, 4).to(dtype), 2).dtype == dtype


@pytest.mark.parametrize(
    ("boundary", "radius", "message"),
    [
        (torch.zeros(4, 4), 5, "(B, 1, h, w)"),
        (torch.zeros(1, 2, 4, 4), 5, "got torch.float32 (1, 2, 4, 4)"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 5, "got torch.uint8"),
        (torch.zeros(1, 1, 4, 4), 1, "at least 2"),
    ],
)
def test_what_is_wrong_is_named(boundary, radius, message):
    with pytest.raises(ValueError) as caught:
        path_affinity(boundary, radius)
    assert message in str(caught.value)
