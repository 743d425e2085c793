"""The sparse random walk against the reference's tensors, a dense one in float64, and what a walk must do."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from crt.cam.paths import displacements, path_affinity
from crt.refine import RandomWalk
from crt.refine.random_walk import chebyshev_coefficients, random_walk

from .conftest import GOLDEN

BOTH = pytest.mark.parametrize("tolerance", [None, 1e-6])


def dense_affinity(boundary, radius, beta):
    """(N, N) float64 affinity^beta with a diagonal of ones, of a boundary (1, h, w)."""
    h, w = boundary.shape[-2:]
    pairs = path_affinity(boundary[None].double(), radius)[0] ** beta
    affinity = torch.eye(h * w, dtype=torch.float64)
    for p, (dy, dx) in enumerate(displacements(radius)):
        for y in range(h - dy):
            for x in range(max(0, -dx), w - max(0, dx)):
                here, there = y * w + x, (y + dy) * w + x + dx
                affinity[here, there] = affinity[there, here] = pairs[p, y, x]
    return affinity


def dense_walk(cam, boundary, radius=5, beta=10, squarings=8):
    """The walk of 2^squarings steps by repeated squaring in float64."""
    affinity = dense_affinity(boundary, radius, beta)
    transition = affinity / affinity.sum(dim=0)
    for _ in range(squarings):
        transition = transition @ transition
    return ((cam * (1 - boundary)).double().flatten(1) @ transition).view(cam.shape)


def error(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


@BOTH
@pytest.mark.parametrize("case", [0, 1])
def test_agrees_with_the_reference(case, tolerance):
    golden = load_file(GOLDEN / "random_walk.safetensors")
    cam, boundary, theirs = (golden[f"{case}.{name}"] for name in ("cam", "edge", "out"))
    ours = random_walk(cam[None], boundary[None], tolerance=tolerance)[0]
    # The reference's own float32 is 5e-5 off its exact result.
    assert error(ours, theirs) < 1e-4
    assert error(ours, dense_walk(cam, boundary)) < 1e-5


@pytest.mark.parametrize(
    ("size", "radius", "beta"), [((13, 18), 5, 10), ((16, 8), 3, 4), ((9, 11), 8, 10), ((1, 7), 2, 1), ((3, 2), 5, 2.5)]
)
def test_agrees_with_repeated_squaring(size, radius, beta):
    cam, boundary = torch.rand(2, 3, *size, dtype=torch.float64), torch.rand(2, 1, *size, dtype=torch.float64)
    exact = torch.stack([dense_walk(*pair, radius, beta) for pair in zip(cam, boundary, strict=True)])
    settings = {"radius": radius, "beta": beta}
    assert error(random_walk(cam, boundary, **settings), exact) < 1e-12
    assert error(random_walk(cam.float(), boundary.float(), **settings), exact) < 2e-5
    assert error(random_walk(cam, boundary, **settings, tolerance=1e-6), exact) < 2e-6


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 256, 4001])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-6, 1e-12])
def test_coefficients_give_the_power(steps, tolerance):
    coefficients = torch.tensor(chebyshev_coefficients(steps, tolerance), dtype=torch.float64)
    x = torch.cos(torch.linspace(0, math.pi, 2001, dtype=torch.float64))
    polynomials = torch.cos(torch.arange(len(coefficients))[:, None] * torch.arccos(x))
    assert float((coefficients @ polynomials - x**steps).abs().max()) < tolerance + 1e-13
    assert len(coefficients) - 1 <= min(steps, math.ceil(math.sqrt(2 * steps * math.log(2 / tolerance))))


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("power", [1, 8], ids=["noise", "regions"])
def test_tolerance_is_kept(tolerance, power):
    boundary, cam = torch.rand(1, 1, 20, 23, dtype=torch.float64) ** power, torch.zeros(1, 2, 20, 23).double()
    cam[0, 0, 4, 5], cam[0, 1] = 1, torch.rand(20, 23)
    wrong = random_walk(cam, boundary, tolerance=tolerance) - random_walk(cam, boundary)
    allowed = tolerance * (cam * (1 - boundary)).amax(dim=(-2, -1))
    assert (wrong.abs().amax(dim=(-2, -1)) <= allowed).all()


@BOTH
def test_columns_sum_to_one(tolerance):
    boundary = torch.rand(1, 1, 15, 22, dtype=torch.float64) * 0.9
    level = random_walk(0.5 / (1 - boundary), boundary, tolerance=tolerance)
    torch.testing.assert_close(level, torch.full_like(level, 0.5), rtol=0, atol=2e-6)


def test_what_is_conserved():
    cam, boundary = torch.rand(1, 2, 12, 14, dtype=torch.float64), torch.rand(1, 1, 12, 14, dtype=torch.float64)
    columns = dense_affinity(boundary[0], 5, 10).sum(dim=0).view(12, 14)
    before, after = ((columns * x).sum(dim=(-2, -1)) for x in (cam * (1 - boundary), random_walk(cam, boundary)))
    torch.testing.assert_close(before, after)


def test_without_boundary_the_map_becomes_flat():
    cam = torch.zeros(1, 1, 14, 14)
    cam[..., 3, 4] = 1
    walked = random_walk(cam, torch.zeros(1, 1, 14, 14), steps=2000)
    torch.testing.assert_close(walked, torch.full_like(walked, walked.mean().item()), rtol=1e-4, atol=0)
    assert 0 < walked.mean() < 2 / 14**2


@BOTH
def test_a_wall_stops_the_walk(tolerance):
    boundary, cam = torch.zeros(1, 1, 16, 20), torch.zeros(1, 1, 16, 20)
    boundary[..., 10], cam[..., :10] = 1, torch.rand(16, 10)
    walked = random_walk(cam, boundary, tolerance=tolerance)
    assert torch.equal(walked[..., 10:], torch.zeros(1, 1, 16, 10))
    assert (walked[..., :10] > 0.3).all()


@BOTH
def test_batch_equals_one_by_one(tolerance):
    cam, boundary = torch.rand(3, 4, 10, 13), torch.rand(3, 1, 10, 13)
    whole = random_walk(cam, boundary, tolerance=tolerance)
    for b in range(3):
        for k in range(4):
            single = random_walk(cam[b : b + 1, k : k + 1], boundary[b : b + 1], tolerance=tolerance)
            torch.testing.assert_close(whole[b : b + 1, k : k + 1], single)


@BOTH
def test_gradient(tolerance):
    cam = torch.rand(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    boundary = torch.rand(2, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    walk = lambda c, b: random_walk(c, b, radius=3, beta=2, steps=12, tolerance=tolerance)  # noqa: E731
    assert torch.autograd.gradcheck(walk, (cam, boundary))


def test_dtypes():
    cam, boundary = torch.rand(1, 2, 9, 9), torch.rand(1, 1, 9, 9)
    expected = random_walk(cam, boundary)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(random_walk(cam, boundary), expected)
    for dtype in (torch.float16, torch.bfloat16):
        half = cam.to(dtype)
        assert torch.equal(random_walk(half, boundary), random_walk(half.float(), boundary).to(dtype))
    assert random_walk(cam.double(), boundary).dtype == torch.float64


def test_no_steps_and_no_classes():
    cam, boundary = torch.rand(2, 3, 5, 6), torch.rand(2, 1, 5, 6)
    for tolerance in (None, 1e-6):
        assert torch.equal(random_walk(cam, boundary, steps=0, tolerance=tolerance), cam * (1 - boundary))
    assert random_walk(cam[:, :0], boundary).shape == (2, 0, 5, 6)
    assert RandomWalk(lambda image: boundary)(torch.zeros(2, 3, 20, 24), cam[:, :0]).shape == (2, 0, 5, 6)


@torch.no_grad()
def test_a_large_grid():
    walked = random_walk(torch.rand(1, 1, 250, 250), torch.rand(1, 1, 250, 250) ** 4, tolerance=1e-6)
    assert walked.isfinite().all() and walked.min() > -1e-6 and walked.max() <= 1


@pytest.fixture
def refiner():
    net = nn.Sequential(nn.Conv2d(3, 1, 3, stride=4, padding=1), nn.Sigmoid())
    return RandomWalk(net, steps=16)


def test_module_walks_on_the_boundarys_grid(refiner, photo):
    image, cam = photo[None], torch.rand(1, 2, 100, 150).bfloat16()
    refined = refiner(image, cam)
    assert refined.shape == cam.shape and refined.dtype == cam.dtype and refined.min() >= 0 and refined.max() <= 1
    assert torch.equal(refiner(image / 255, cam), refined)
    small = torch.rand(1, 2, 25, 38)
    assert torch.equal(refiner(image, small), random_walk(small, refiner.boundary(image / 255), steps=16))
    assert "steps=16" in repr(refiner)


def test_gradient_reaches_the_network(refiner, photo):
    refiner(photo[None], torch.rand(1, 2, 100, 150)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in refiner.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda cam, boundary: random_walk(cam[0], boundary), "cam of shape (B, k, h, w)"),
        (lambda cam, boundary: random_walk(cam.long(), boundary), "got torch.int64"),
        (lambda cam, boundary: random_walk(cam, boundary[..., 1:]), "boundary of shape (1, 1, 6, 7)"),
        (lambda cam, boundary: random_walk(cam, boundary[0]), "got torch.float32 (1, 6, 7)"),
        (lambda cam, boundary: random_walk(cam, boundary.long()), "got torch.int64 (1, 1, 6, 7)"),
        (lambda cam, boundary: random_walk(cam, boundary, beta=0), "beta must be above 0"),
        (lambda cam, boundary: random_walk(cam, boundary, steps=-1), "steps"),
        (lambda cam, boundary: random_walk(cam, boundary, radius=1), "radius must be at least 2"),
        (lambda cam, boundary: random_walk(cam, boundary, tolerance=0), "between 0 and 1"),
        (lambda cam, boundary: RandomWalk(lambda _: boundary)(boundary, cam), "images of shape (B, 3, H, W)"),
        (
            lambda cam, boundary: RandomWalk(lambda _: boundary)(torch.zeros(2, 3, 8, 8), cam),
            "got (2, 3, 8, 8) and (1, 2, 6, 7)",
        ),
    ],
)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(ValueError) as caught:
        call(torch.zeros(1, 2, 6, 7), torch.zeros(1, 1, 6, 7))
    assert message in str(caught.value)
