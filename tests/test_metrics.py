"""Metrics of masks and of image-level scores, against slow and obvious versions."""

import json
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import MetricCollection
from torchmetrics.functional.classification import multilabel_average_precision

from crt.cam import mask_from_cam
from crt.evaluate.record import make_record
from crt.metrics import BoundaryIoU, Localization, MaskIoU, MultilabelAP, SeedCurve
from crt.metrics.boundary_iou import boundary_pixels
from crt.metrics.mask_iou import confusion_matrix, error_rates, iou_per_class, mean_iou
from crt.metrics.multilabel_ap import average_precision


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
        (lambda: SeedCurve(2, [0.5, math.nan]), "rising"),
        (lambda: SeedCurve(2, [0.5, 1.5]), "0 to 1"),
        (lambda: SeedCurve(2, [0.5]).update(torch.zeros(1, 2, 2), [0], torch.zeros(2, 3)), "do not fit"),
        (lambda: SeedCurve(2, [0.5]).update(torch.zeros(1, 1, 1), [0], torch.full((1, 1), 3)), "values 3;"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_threshold_is_enough():
    curve = SeedCurve(1, [0.5])
    curve.update(torch.tensor([[[0.9, 0.1]]]), [0], torch.tensor([[1, 1]]))
    assert curve.best() == (0.5, 0.25)
    assert curve.confusion().tolist() == [[[0, 0], [1, 1]]]


@settings(max_examples=30, deadline=None)
@given(photos(), st.permutations(range(4)))
def test_the_curve_does_not_depend_on_the_order_of_classes(cases, order):
    curve, permuted = SeedCurve(4, [0.2, 0.6]), SeedCurve(4, [0.2, 0.6])
    for maps, labels, truth in cases:
        # Where two maps are equal the first of them wins: make them differ.
        maps = maps + torch.tensor([i / 1000 for i in labels]).view(-1, 1, 1)
        curve.update(maps, labels, truth)
        values = torch.tensor([0, *(i + 1 for i in order), *range(5, 256)])
        permuted.update(maps, [order[i] for i in labels], values[truth])
    assert torch.allclose(curve.compute(), permuted.compute(), atol=1e-12)
    ious = iou_per_class(curve.confusion())[:, 1:]
    assert torch.equal(ious.nan_to_num(-1), iou_per_class(permuted.confusion())[:, 1:][:, order].nan_to_num(-1))


# Masks


def slow_confusion(prediction, truth, classes):
    counts = np.zeros((classes, classes), int)
    for p, t in zip(prediction.ravel(), truth.ravel(), strict=True):
        if t != 255:
            counts[t, p] += 1
    return counts


@st.composite
def masks(draw, classes=4):
    """Predictions and truths (n, H, W) with ignored pixels, and at least one that counts."""
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    size = random.integers(1, 4), *random.integers(1, 12, size=2)
    truth = random.choice([*range(classes), 255], size=size)
    truth.flat[0] = 0
    return random.integers(0, classes, size), truth


@settings(max_examples=60, deadline=None)
@given(masks())
def test_masks_equal_the_definition(pair):
    prediction, truth = pair
    metric = MaskIoU(3)
    metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    scores = metric.compute()
    counts = slow_confusion(prediction, truth, 4)
    assert metric.confusion.tolist() == counts.tolist()
    assert scores["miou"].item() == pytest.approx(slow_miou([prediction], [truth], 4), abs=1e-12)
    for c in range(4):
        wrong, missed, hit = counts[:, c].sum() - counts[c, c], counts[c].sum() - counts[c, c], counts[c, c]
        if wrong + missed + hit:
            shares = [scores[name][c].item() for name in ("iou", "fp", "fn")]
            assert shares == pytest.approx(np.array([hit, wrong, missed]) / (wrong + missed + hit))
        else:
            assert all(math.isnan(scores[name][c]) for name in ("iou", "fp", "fn"))


@pytest.mark.parametrize("kind", [MaskIoU, BoundaryIoU])
@settings(max_examples=30, deadline=None)
@given(pair=masks(), order=st.permutations(range(4)))
def test_order_of_classes_and_splitting_change_nothing(kind, pair, order):
    prediction, truth = (torch.from_numpy(values) for values in pair)
    whole, parts, permuted = kind(3), kind(3), kind(3)
    values = torch.tensor([*order, *range(4, 256)])
    for p, t in zip(prediction, truth, strict=True):
        parts.update(p, t)
        permuted.update(values[p], values[t])
    if kind is MaskIoU:
        whole.update(prediction, truth)
        assert torch.equal(whole.confusion, parts.confusion)
    assert parts.compute()["miou"] == pytest.approx(permuted.compute()["miou"].item(), abs=1e-12)
    mine, theirs = (metric.compute()["iou"].nan_to_num(-1) for metric in (parts, permuted))
    assert torch.equal(mine, theirs[list(order)])


@pytest.mark.parametrize("kind", [MaskIoU, BoundaryIoU])
@settings(max_examples=20, deadline=None)
@given(pair=masks())
def test_a_perfect_mask_scores_one(kind, pair):
    _, truth = pair
    metric = kind(3)
    for mask in torch.from_numpy(truth):
        metric.update(torch.where(mask == 255, 2, mask), mask)
    assert metric.compute()["miou"] == 1


def test_an_empty_mask_scores_only_background():
    truth = torch.tensor([[0, 0, 1], [0, 255, 1]])
    metric = MaskIoU(2)
    metric.update(torch.zeros(2, 3, dtype=torch.uint8), truth)
    scores = metric.compute()
    assert scores["iou"][:2].tolist() == [3 / 5, 0]
    assert scores["iou"][2].isnan()
    assert (scores["fp"][0], scores["fn"][1]) == (2 / 5, 1)


def test_the_shares_of_errors_and_hits_are_one():
    confusion = torch.randint(0, 50, (3, 5, 5))
    fp, fn = error_rates(confusion)
    assert torch.allclose(iou_per_class(confusion) + fp + fn, torch.ones(3, 5).double())


def slow_boundary(mask, reach):
    """Oracle: a pixel whose square window leaves the picture or holds another class."""
    height, width = mask.shape
    found = np.zeros(mask.shape, bool)
    for y in range(height):
        for x in range(width):
            inside = y >= reach and x >= reach and y + reach < height and x + reach < width
            window = mask[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            found[y, x] = not inside or (window != mask[y, x]).any()
    return found


@settings(max_examples=40, deadline=None)
@given(masks(3), st.sampled_from([0.02, 0.1, 0.3]))
def test_boundaries_equal_the_definition(pair, ratio):
    metric, both, either = BoundaryIoU(2, ratio=ratio), np.zeros(3), np.zeros(3)
    for prediction, truth in zip(*pair, strict=True):
        reach = max(1, round(ratio * math.hypot(*truth.shape)))
        assert np.array_equal(boundary_pixels(torch.from_numpy(truth), ratio=ratio), slow_boundary(truth, reach))
        prediction = np.where(truth == 255, 255, prediction)
        edges = [np.where(slow_boundary(mask, reach), mask, -1) for mask in (prediction, truth)]
        for c in range(3):
            both[c] += ((edges[0] == c) & (edges[1] == c)).sum()
            either[c] += ((edges[0] == c) | (edges[1] == c)).sum()
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    expected = np.divide(both, either, out=np.full(3, np.nan), where=either > 0)
    assert metric.compute()["iou"].tolist() == pytest.approx(expected.tolist(), nan_ok=True)


def test_boundaries_judge_outlines():
    truth, prediction = torch.zeros(2, 200, 200, dtype=torch.uint8)
    truth[20:180, 20:180] = 1
    prediction[24:176, 24:176] = 1
    masks, outlines = MaskIoU(1), BoundaryIoU(1)
    masks.update(prediction, truth)
    outlines.update(prediction, truth)
    assert masks.compute()["iou"][1] > 0.9
    assert outlines.compute()["iou"][1] < 0.3


# Image-level scores


def slow_ap(scores, targets):
    """Oracle: the precision at each step of the recall, from the highest score down."""
    total, before, found = targets.sum(), 0, 0.0
    for score in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= score
        hits = targets[taken].sum()
        found += (hits - before) / total * hits / taken.sum()
        before = hits
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_average_precision_equals_the_definition(seed, ties):
    random = np.random.default_rng(seed)
    size = int(random.integers(1, 20)), int(random.integers(1, 5))
    scores = (random.integers(0, 4, size) if ties else random.permutation(math.prod(size)).reshape(size)) / 10
    targets, counted = random.integers(0, 2, size), random.random(size) < 0.8
    tensors = [torch.from_numpy(values) for values in (scores, np.where(counted, targets, -1))]
    expected = [
        slow_ap(s[c], t[c]) if t[c].any() else math.nan for s, t, c in zip(scores.T, targets.T, counted.T, strict=True)
    ]
    assert average_precision(*tensors, ignore_index=-1).tolist() == pytest.approx(expected, nan_ok=True)
    metric = MultilabelAP(size[1], ignore_index=-1)
    for rows in zip(*(tensor.split(7) for tensor in tensors), strict=True):
        metric.update(*rows)
    assert metric.compute()["ap"].view(-1).tolist() == pytest.approx(expected, nan_ok=True)
    order = torch.randperm(size[1])
    permuted = average_precision(*(tensor[:, order] for tensor in tensors), ignore_index=-1)
    assert permuted.tolist() == pytest.approx([expected[i] for i in order], nan_ok=True)


def test_average_precision_equals_torchmetrics():
    scores, targets = torch.rand(50, 6), torch.rand(50, 6) < 0.3
    theirs = multilabel_average_precision(scores, targets.long(), 6, average=None, thresholds=None)
    assert torch.allclose(average_precision(scores, targets), theirs.double(), atol=1e-6)


def test_large_logits_keep_their_order():
    """A float32 sigmoid makes 20 and 30 equal, and with it the order of the two images."""
    preds, target = torch.tensor([[30.0, 1.0], [20.0, 0.0]]), torch.tensor([[1, 1], [0, 0]])
    assert average_precision(preds, target).tolist() == [1, 1]
    assert multilabel_average_precision(preds, target, 2, average=None, thresholds=None)[0] < 1


def test_perfect_and_constant_scores():
    targets = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    assert average_precision(targets.float(), targets)[:2].tolist() == [1, 1]
    assert average_precision(torch.zeros(3, 3), targets)[:2].tolist() == pytest.approx([1 / 3, 2 / 3])
    metric = MultilabelAP(3)
    metric.update(targets.float(), targets)
    assert metric.compute()["map"] == 1
    assert metric.compute()["ap"][2].isnan()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusion_matrix(torch.zeros(2, 2), torch.zeros(2, 3), 2), "do not fit"),
        (lambda: confusion_matrix(torch.tensor([3]), torch.tensor([0]), 2), "preds has the values 3; with 2 classes"),
        (lambda: confusion_matrix(torch.tensor([0]), torch.tensor([-1]), 2), "target has the values -1;"),
        (lambda: BoundaryIoU(2, ratio=0), "ratio"),
        (lambda: MaskIoU(1).update(torch.tensor([0.9]), torch.tensor([1])), "integers"),
        (lambda: average_precision(torch.zeros(1, 1), torch.tensor([[-1]])), "0 or 1"),
        (lambda: average_precision(torch.zeros(2, 2), torch.zeros(2, 3)), "both be"),
        (lambda: average_precision(torch.full((1, 1), math.nan), torch.zeros(1, 1)), "NaN"),
        (lambda: MultilabelAP(2).compute(), "no images"),
        (lambda: MultilabelAP(2).update(torch.zeros(1, 3), torch.zeros(1, 3)), "2 classes, got 3"),
        (lambda: SeedCurve(1, [0.5]).update(torch.full((1, 1, 1), math.nan), [0], torch.zeros(1, 1)), "NaN"),
    ],
)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_wrong_masks_and_scores_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Several processes, other devices

SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from crt.metrics import BoundaryIoU, BoxCurve, Localization, MaskIoU, MultilabelAP, SeedCurve

rank, world, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
device = sys.argv[4]
metrics = [MaskIoU(3), BoundaryIoU(3), SeedCurve(3, [0.2, 0.5]), MultilabelAP(4), Localization(0.3), BoxCurve()]
masks, boundaries, seeds, ap, fixed, boxes = metrics = [metric.to(device) for metric in metrics]
torch.manual_seed(0)
for i in range(7):
    truth, prediction, maps = torch.randint(0, 4, (9, 9)), torch.randint(0, 4, (9, 9)), torch.rand(2, 9, 9)
    scores, targets, box = torch.rand(2, 4), torch.rand(2, 4) < 0.5, torch.tensor([[1.0, 2.0, 7.0, 8.0]])
    if rank == 0:  # the other process has no scores at all
        ap.update(scores, targets)
    if i % world == rank:
        masks.update(prediction, truth)
        boundaries.update(prediction, truth)
        seeds.update(maps, [0, 2], truth)
        fixed.update(maps[0], box, scores[0], 1)
        boxes.update(maps[0], box)

def plain(value):
    return {k: v.cpu().tolist() for k, v in value.items()} if isinstance(value, dict) else value.cpu().tolist()

found = [plain(metric.compute()) for metric in metrics] + [seeds.confusion().cpu().tolist(), seeds.best()]
print(json.dumps(found))
"""


def measured(tmp_path, world, device="cpu"):
    """What each of ``world`` processes finds."""
    command = [sys.executable, "-c", SCRIPT]
    group = [
        subprocess.Popen([*command, str(rank), str(world), str(tmp_path / "group"), device], stdout=subprocess.PIPE)
        for rank in range(world)
    ]
    return [json.loads(process.communicate(timeout=120)[0]) for process in group]


def test_two_processes_find_what_one_finds(tmp_path):
    (alone,) = measured(tmp_path, 1)
    for found in measured(tmp_path, 2):
        for mine, theirs in zip(found, alone, strict=True):
            assert flat(mine) == pytest.approx(flat(theirs), nan_ok=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_what_the_cpu_finds(tmp_path):
    (alone,), (found,) = measured(tmp_path, 1), measured(tmp_path, 1, "cuda")
    assert flat(found) == pytest.approx(flat(alone), nan_ok=True)


def flat(value):
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in flat(value[key])]
    return [number for part in value for number in flat(part)] if isinstance(value, list) else [value]


def test_record_names_commit_and_machine():
    record = make_record(miou=0.5)
    assert record["miou"] == 0.5
    assert {"commit", "date", "torch", "python", "machine"} < record.keys()
    assert record["machine"]["cores"] >= 1


def test_boundary_iou_does_not_depend_on_the_value_to_ignore():
    truth, prediction = torch.zeros(2, 40, 40, dtype=torch.long)
    truth[10:30, 10:30], prediction[12:28, 12:28] = 1, 1
    scores = []
    for ignore in (-1, 2, 3, 255):
        metric = BoundaryIoU(1, ignore_index=ignore)
        masked = truth.clone()
        masked[:3] = ignore
        metric.update(prediction, masked)
        scores.append(metric.compute()["iou"])
    assert all(torch.equal(score, scores[0]) for score in scores)


RAMP, ONES = torch.linspace(1, 0, 8)[None], torch.ones(1, 8, dtype=torch.long)
PIXEL = torch.tensor([[0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("make", "settings", "alike", "apart"),
    [
        (
            Localization,
            ({"threshold": 0.1}, {"threshold": 0.9}),
            (RAMP, PIXEL + 100, torch.ones(1), 0),
            (RAMP, PIXEL, torch.ones(1), 0),
        ),
        (
            partial(SeedCurve, 1),
            ({"thresholds": [0.1]}, {"thresholds": [0.9]}),
            (0 * RAMP[None], [0], ONES),
            (RAMP[None], [0], ONES),
        ),
        (partial(MaskIoU, 1), ({"ignore_index": 0}, {"ignore_index": 255}), (ONES, ONES), (ONES, (RAMP > 0.5).long())),
    ],
)
def test_a_collection_does_not_take_other_settings_for_one_metric(make, settings, alike, apart):
    """It groups metrics that are the same after their first photo."""
    together = MetricCollection({str(i): make(**chosen) for i, chosen in enumerate(settings)})
    results = []
    for arguments in (alike, apart):
        together.update(*arguments)
    for i, chosen in enumerate(settings):
        alone = make(**chosen)
        for arguments in (alike, apart):
            alone.update(*arguments)
        results.append(str(alone.compute()))
        assert str(together[str(i)].compute()) == results[-1]
    assert results[0] != results[1]
