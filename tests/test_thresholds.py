"""Thresholds from a mixture: known mixtures are found again, and odd input is named."""

import pytest
import torch

from crt.cam import CAMExtractor
from crt.cam.thresholds import fit_mixture, fit_thresholds
from crt.data import VOC_CLASSES, ImageDataset
from crt.models import CRT
from crt.pseudo.thresholds import find_thresholds

from .conftest import TINY


def draw(weights=(0.5, 0.2, 0.3), means=(0.08, 0.4, 0.8), stds=(0.05, 0.08, 0.07), count=20_000):
    which = torch.multinomial(torch.tensor(weights), count, replacement=True)
    return (torch.tensor(means)[which] + torch.tensor(stds)[which] * torch.randn(count)).clamp(0, 1)


def test_a_known_mixture_is_found_again():
    mixture = fit_mixture(draw(means=(0.2, 0.5, 0.8)))
    torch.testing.assert_close(mixture.mean, torch.tensor([0.2, 0.5, 0.8]).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(mixture.std, torch.tensor([0.05, 0.08, 0.07]).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(mixture.weight, torch.tensor([0.5, 0.2, 0.3]).double(), atol=0.03, rtol=0)
    assert mixture.weight.sum() == pytest.approx(1)


def test_thresholds_lie_between_the_components_and_do_not_depend_on_order_or_seed():
    scores = draw()
    low, high = fit_thresholds(scores)
    assert 0.15 < low < 0.3 < 0.5 < high < 0.7
    torch.manual_seed(5)
    again = fit_thresholds(scores[torch.randperm(len(scores))])
    assert again == pytest.approx((low, high), abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_scores_give_thresholds_in_range(value):
    low, high = fit_thresholds(torch.full((200,), value))
    assert 0 <= low <= high <= 1


@pytest.mark.parametrize(("level", "expected"), [(0.001, (0.2, 0.5)), (0.999, (0.5, 0.8))])
def test_thresholds_of_competing_classes_lie_around_one_half(voc, monkeypatch, level, expected):
    """A mixture of probabilities lies near 0 and 1; pseudo masks and `crt fit` bound its thresholds alike."""
    model = CRT("vit_tiny_patch16_224", class_names=VOC_CLASSES, activation="softmax", **TINY)
    photos = ImageDataset.from_voc(voc, "train")
    monkeypatch.setattr("crt.pseudo.thresholds.fit_thresholds", lambda scores: (level, level))
    assert find_thresholds(CAMExtractor(model), None, photos) == expected
    assert find_thresholds(CAMExtractor(CRT("vit_tiny_patch16_224", **TINY)), None, photos) == (round(level, 2),) * 2


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="at least 100 finite"):
        fit_thresholds(torch.rand(50))
    with pytest.raises(ValueError, match="at least 100 finite"):
        fit_mixture(torch.cat([torch.rand(200), torch.tensor([float("nan")])]))
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        fit_thresholds(3 * torch.rand(200))
