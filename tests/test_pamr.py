"""PAMR: against an obvious loop, and what smoothing that stops at edges must do."""

import numpy as np
import pytest
import torch

from crt.refine import PAMR, create_refiner
from crt.refine.registry import Refiners


def slow_pamr(image, cam, dilations, bandwidth, iterations):
    """Pixel by pixel, in numpy: (3, h, w) and (k, h, w) float64."""
    height, width = image.shape[1:]
    steps = [(d * y, d * x) for d in dilations for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    for _ in range(iterations):
        result = np.zeros_like(cam)
        for y in range(height):
            for x in range(width):
                places = [(min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)) for dy, dx in steps]
                around = np.stack([image[:, v, u] for v, u in places])
                own = image[:, y, x]
                deviation = np.concatenate([around, own[None]]).std(axis=0, ddof=1)
                closeness = (-np.abs(around - own) / (bandwidth * deviation + 1e-8)).mean(axis=1)
                weights = np.exp(closeness - closeness.max())
                weights /= weights.sum()
                result[:, y, x] = sum(w * cam[:, v, u] for w, (v, u) in zip(weights, places, strict=True))
        cam = result
    return cam


@pytest.mark.parametrize(("dilations", "iterations"), [((1,), 1), ((1, 2, 5), 3)])
def test_equals_the_obvious_loop(dilations, iterations):
    image, cam = torch.rand(1, 3, 9, 11), torch.rand(1, 2, 9, 11)
    ours = PAMR(iterations, dilations, bandwidth=0.2)(image, cam)
    slow = slow_pamr(image[0].double().numpy(), cam[0].double().numpy(), dilations, 0.2, iterations)
    np.testing.assert_allclose(ours[0].numpy(), slow, atol=1e-5)


def test_a_map_that_spills_over_an_edge_moves_back_to_it():
    image = torch.zeros(1, 3, 40, 60)
    image[..., 30:] = 1.0
    cam = torch.zeros(1, 1, 40, 60)
    cam[..., 34:] = 1.0  # four columns short of the edge
    refined = PAMR(dilations=(1, 2, 4))(image, cam)
    assert refined[..., 30:34].mean() > 0.4
    assert refined[..., :30].abs().max() < 1e-6


def test_even_maps_stay_and_scores_stay_in_range():
    image = torch.randint(0, 256, (2, 3, 33, 47), dtype=torch.uint8)
    assert torch.allclose(PAMR()(image, torch.full((2, 1, 33, 47), 0.3)), torch.tensor(0.3))
    refined = PAMR()(image, torch.rand(2, 4, 33, 47))
    assert refined.min() >= 0 and refined.max() <= 1 + 1e-6


def test_a_batch_equals_its_photos_and_bytes_equal_floats():
    image, cam = torch.randint(0, 256, (3, 3, 30, 20), dtype=torch.uint8), torch.rand(3, 2, 30, 20)
    together = PAMR()(image, cam)
    alone = torch.cat([PAMR()(image[i : i + 1] / 255, cam[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_large_photos_are_reduced_and_maps_keep_size_and_dtype():
    image, cam = torch.rand(1, 3, 600, 400), torch.rand(1, 1, 75, 50, dtype=torch.float64)
    refined = PAMR(iterations=1, max_side=64)(image, cam)
    assert refined.shape == cam.shape and refined.dtype == cam.dtype
    assert PAMR()(image, cam[:, :0]).shape == (1, 0, 75, 50)


def test_gradients_reach_the_maps():
    cam = torch.rand(1, 1, 8, 8, requires_grad=True)
    PAMR(iterations=2, dilations=(1,))(torch.rand(1, 3, 8, 8), cam).sum().backward()
    assert cam.grad is not None and (cam.grad > 0).all()


def test_by_name_and_one_after_another():
    both = create_refiner("pamr+pamr")
    image, cam = torch.rand(1, 3, 20, 20), torch.rand(1, 2, 20, 20)
    assert isinstance(both, Refiners) and not both.training
    assert torch.equal(both(image, cam), PAMR()(image, PAMR()(image, cam)))
    with pytest.raises(ValueError, match="Did you mean 'pamr'"):
        create_refiner("parm")


@pytest.mark.parametrize(
    ("image", "cam", "error", "message"),
    [
        (torch.rand(3, 8, 8), torch.rand(1, 1, 8, 8), ValueError, r"\(B, 3, H, W\)"),
        (torch.rand(2, 3, 8, 8), torch.rand(1, 1, 8, 8), ValueError, r"\(1, 1, 8, 8\)"),
        (torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 8, dtype=torch.int64), TypeError, "floating point"),
        (torch.ones(1, 3, 8, 8, dtype=torch.int64), torch.rand(1, 1, 8, 8), TypeError, "uint8"),
        (torch.randn(1, 3, 8, 8) * 3, torch.rand(1, 1, 8, 8), ValueError, r"in \[0, 1\]"),
    ],
)
def test_wrong_inputs_are_named(image, cam, error, message):
    with pytest.raises(error, match=message):
        PAMR()(image, cam)


@pytest.mark.parametrize("arguments", [{"iterations": 0}, {"dilations": ()}, {"bandwidth": 0}, {"max_side": 0}])
def test_wrong_settings_are_named(arguments):
    with pytest.raises(ValueError, match="must be positive"):
        PAMR(**arguments)


def test_maps_that_are_spread_already_are_smoothed_less(tiny):
    from crt.refine import create_refiner

    assert create_refiner("pamr", model=tiny).dilations == create_refiner("pamr").dilations == PAMR().dilations
    tiny.spread = 8.0
    assert create_refiner("pamr", model=tiny).dilations == (1, 2, 4, 8)
