"""Metrics against slow and obvious versions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crt.cam import mask_from_cam
from crt.metrics import SeedCurve, iou_per_class, make_record, mean_iou


def slow_miou(predictions, truths, classes):
    """Oracle: the definition, class by class, pixels of 255 left out."""
    scores = []
    for c in range(classes):
        both = either = 0
        for predicted, truth in zip(predictions, truths, strict=True):
            counted = truth != 255
            both += np.sum((predicted == c) & (truth == c) & counted)
            either += np.sum(((predicted == c) | (truth == c)) & counted)
        if either:
            scores.append(both / either)
    return sum(scores) / len(scores)


@st.composite
def photos(draw):
    count = draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**31))
    random = np.random.default_rng(seed)
    cases = []
    for _ in range(count):
        labels = sorted(random.choice(4, size=random.integers(0, 4), replace=False).tolist())
        size = tuple(random.integers(1, 9, size=2))
        maps = torch.from_numpy(random.integers(0, 11, size=(len(labels), *size)).astype(np.float32)) / 10
        truth = torch.from_numpy(random.choice([0, 1, 2, 3, 4, 255], size=size))
        cases.append((maps, labels, truth))
    cases[0][2].view(-1)[0] = 0  # at least one pixel counts
    return cases


@settings(max_examples=60, deadline=None)
@given(photos())
def test_the_curve_equals_one_evaluation_per_threshold(cases):
    thresholds = [0.1, 0.3, 0.35, 0.8]
    curve = SeedCurve(4, thresholds)
    for case in cases:
        curve.update(*case)
    for threshold, score in zip(thresholds, curve.compute().tolist(), strict=True):
        masks = [mask_from_cam(maps, labels, threshold).numpy() for maps, labels, _ in cases]
        expected = slow_miou(masks, [truth.numpy() for _, _, truth in cases], 5)
        assert score == pytest.approx(expected, abs=1e-12)


def test_perfect_and_empty():
    truth = torch.tensor([[0, 1], [1, 255]])
    curve = SeedCurve(2, [0.5])
    curve.update((truth == 1).float()[None], [0], truth)
    assert curve.best() == (0.5, 1.0)
    empty = SeedCurve(2, [0.5])
    empty.update(torch.zeros(0, 2, 2), [], truth)
    assert empty.compute().item() == pytest.approx((1 / 3 + 0) / 2)


def test_classes_that_do_not_occur_do_not_count():
    confusion = torch.tensor([[4, 0, 0], [0, 0, 0], [0, 1, 1]])
    assert [round(v, 3) for v in iou_per_class(confusion).tolist()] == [1.0, 0.0, 0.5]
    absent = torch.tensor([[4, 0], [0, 0]])
    assert math.isnan(iou_per_class(absent)[1])
    assert mean_iou(absent) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SeedCurve(2, []), "rising"),
        (lambda: SeedCurve(2, [0.5, 0.2]), "rising"),
        (lambda: SeedCurve(2, [0.5]).update(torch.zeros(1, 2, 2), [0], torch.zeros(2, 3)), "do not fit"),
        (lambda: SeedCurve(2, [0.5]).update(torch.zeros(1, 1, 1), [0], torch.full((1, 1), 3)), "classes \\[3\\]"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_record_names_commit_and_machine():
    record = make_record(miou=0.5)
    assert record["miou"] == 0.5
    assert {"commit", "date", "torch", "python", "machine"} < record.keys()
    assert record["machine"]["cores"] >= 1
