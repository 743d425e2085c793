"""Boxes of maps and localization, against slow and obvious versions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from crt.cam import CAMExtractor, CAMResult
from crt.cam.functional import largest_component, min_max
from crt.data import ImageDataset
from crt.evaluate import measure_boxes
from crt.images import normalize, to_tensor
from crt.metrics import BoxCurve, Localization
from crt.metrics.boxes import best_overlaps, box_iou, component_boxes, largest_boxes
from crt.refine import PAMR

THRESHOLDS = [0.0, 0.1, 0.25, 0.5, 0.75, 1.0]


def slow_components(mask):
    """Oracle: (size, box) of each 8-connected component by flooding, in reading order of their last pixels."""
    left, found = {tuple(p) for p in np.argwhere(mask).tolist()}, []
    while left:
        todo, component = [left.pop()], []
        while todo:
            y, x = todo.pop()
            component.append((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            todo += around
        ys, xs = zip(*component, strict=True)
        found.append((max(component), len(component), (min(xs), min(ys), max(xs) + 1, max(ys) + 1)))
    return [(size, box) for _, size, box in sorted(found)]


def slow_iou(a, b):
    """Oracle: the overlap of two boxes, axis by axis."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area - width * height)


def slow_overlaps(cam, truth, threshold):
    """Oracle: best IoU of the largest component's box and of any component's, by the definition."""
    span = cam.max() - cam.min()
    scaled = (cam - cam.min()) / span if span else np.zeros_like(cam)
    components = slow_components(scaled >= np.float32(threshold))
    if not components:
        return 0.0, 0.0
    largest = max(components, key=lambda component: component[0])[1]
    every = max(slow_iou(box, true) for _, box in components for true in truth)
    return max(slow_iou(largest, true) for true in truth), every


@st.composite
def photos(draw):
    """(map, true boxes, logits, label) of one to four photos; maps with plateaus, diagonals and ties."""
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    cases = []
    for _ in range(random.integers(1, 5)):
        height, width = random.integers(1, 14, size=2)
        cam = random.integers(0, random.integers(1, 9), size=(height, width)).astype(np.float32) / 8 - 0.3
        corner = random.random((random.integers(1, 4), 2)) * (width, height)
        boxes = np.concatenate([corner, corner + 0.5 + random.random(corner.shape) * (width, height)], axis=1)
        logits = random.integers(-3, 4, size=7) / 2
        cases.append((cam, boxes, logits, int(random.integers(7))))
    return cases


@settings(max_examples=100, deadline=None)
@given(photos())
def test_components_of_all_thresholds_equal_flooding(cases):
    for cam, *_ in cases:
        cam = min_max(torch.from_numpy(cam))
        levels, sizes, boxes = component_boxes(cam, torch.tensor(THRESHOLDS))
        largest = largest_boxes(component_boxes(cam, torch.tensor(THRESHOLDS)), len(THRESHOLDS))
        for place, threshold in enumerate(THRESHOLDS):
            mask = cam >= threshold
            expected = slow_components(mask.numpy())
            kept = levels == place
            assert [
                (size, tuple(box)) for size, box in zip(sizes[kept].tolist(), boxes[kept].tolist(), strict=True)
            ] == expected
            if expected:
                ys, xs = largest_component(mask).nonzero().unbind(dim=1)
                assert largest[place].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            else:
                assert largest[place].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("shape", ["spiral", "comb", "stripes"])
def test_winding_components_are_one(shape):
    mask = torch.zeros(41, 41)
    if shape == "comb":
        mask[:, ::2] = 1
        mask[-1] = 1
    elif shape == "stripes":
        mask[::2] = 1
        mask[1::4, -1] = 1
        mask[3::4, 0] = 1
    else:
        y, x, step, turn = 0, 0, 40, 0
        while step > 0:
            for _ in range(2 if step < 40 else 3):
                for _ in range(step):
                    mask[y, x] = 1
                    y, x = y + (0, 1, 0, -1)[turn], x + (1, 0, -1, 0)[turn]
                turn = (turn + 1) % 4
            step -= 2
    components = component_boxes(mask, torch.tensor([0.5]))
    assert components.boxes.tolist() == [[0, 0, 41, 41]]
    assert components.sizes.tolist() == [int(mask.sum())]


def test_boxes_are_xyxy_and_exclusive():
    """One pixel at column 3, row 1 is the box (3, 1, 4, 2), of area one, in metrics as in results."""
    cam = torch.zeros(4, 6)
    cam[1, 3] = 1.0
    assert largest_boxes(component_boxes(cam, torch.tensor([0.5])), 1).tolist() == [[3, 1, 4, 2]]
    assert best_overlaps(cam, torch.tensor([[3.0, 1.0, 4.0, 2.0]]), torch.tensor([0.5]))[0].tolist() == [1.0]
    assert best_overlaps(cam, torch.tensor([[3.0, 1.0, 5.0, 2.0]]), torch.tensor([0.5]))[0].tolist() == [0.5]
    result = CAMResult(cam[None], [0], ["bird"], 0.5, torch.zeros(3, 4, 6, dtype=torch.uint8))
    assert result.boxes() == {"bird": (3, 1, 4, 2)}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.15, 0.4, 0.8]))
def test_boxes_are_those_of_the_results(seed, threshold):
    """Where a map's lowest value is zero, as it is of nearly every CAM."""
    cam = torch.from_numpy(np.random.default_rng(seed).random((12, 17), dtype=np.float32))
    cam[3, 4] = 0.0
    result = CAMResult(cam[None], [0], ["bird"], threshold, torch.zeros(3, 12, 17, dtype=torch.uint8))
    (box,) = largest_boxes(component_boxes(min_max(cam), torch.tensor([threshold])), 1).tolist()
    assert result.boxes() == {"bird": tuple(box)}


@settings(max_examples=60, deadline=None)
@given(photos(), photos())
def test_overlaps_equal_the_definition(a, b):
    for (_, boxes, *_), (_, others, *_) in zip(a, b, strict=False):
        expected = [[slow_iou(x, y) for y in others] for x in boxes]
        assert np.allclose(box_iou(torch.from_numpy(boxes), torch.from_numpy(others)), expected)


@settings(max_examples=60, deadline=None)
@given(photos())
def test_the_box_curve_equals_one_evaluation_per_threshold(cases):
    curve = BoxCurve(THRESHOLDS)
    for cam, boxes, *_ in cases:
        curve.update(torch.from_numpy(cam), torch.from_numpy(boxes))
    found = curve.compute()
    shares = np.array([[slow_overlaps(cam, boxes, t) for cam, boxes, *_ in cases] for t in THRESHOLDS])
    largest, every = (
        np.stack([(shares[:, :, i] >= iou).mean(axis=1) for iou in (0.3, 0.5, 0.7)], axis=1) for i in (0, 1)
    )
    assert np.allclose(found["box_acc"], largest)
    assert np.allclose(found["box_acc_v2"], every)
    assert np.allclose(found["max_box_acc"], largest.max(axis=0))
    assert found["max_box_acc_v2"] == pytest.approx(every.max(axis=0).mean())
    assert found["threshold"].tolist() == pytest.approx([THRESHOLDS[i] for i in largest.argmax(axis=0)])


@settings(max_examples=60, deadline=None)
@given(photos(), st.sampled_from([0.1, 0.5]), st.sampled_from([0.3, 0.5]), st.permutations(range(7)))
def test_localization_equals_the_definition(cases, threshold, iou, order):
    whole, permuted = Localization(threshold, iou=iou), Localization(threshold, iou=iou)
    expected = np.zeros(5)
    for cam, boxes, logits, label in cases:
        found = slow_overlaps(cam, boxes, threshold)[0] >= iou
        others = sum(score >= logits[label] for i, score in enumerate(logits) if i != label)
        expected += [found, found and others < 1, found and others < 5, others < 1, others < 5]
        cam, boxes, logits = (torch.from_numpy(value) for value in (cam, boxes, logits))
        whole.update(cam, boxes, logits, label)
        permuted.update(cam, boxes.flip(0), logits[list(order)], order.index(label))
    found = whole.compute()
    assert [found[name].item() for name in Localization.names] == pytest.approx((expected / len(cases)).tolist())
    assert permuted.compute() == found
    assert found["top1_loc"] <= found["top5_loc"] <= found["gt_known"]


def test_perfect_and_empty_maps():
    cam, truth = torch.zeros(10, 10), torch.tensor([[2.0, 3.0, 6.0, 9.0], [8.0, 8.0, 9.0, 9.0]])
    cam[3:9, 2:6] = 0.7
    curve, fixed = BoxCurve(), Localization(0.5)
    curve.update(cam, truth)
    fixed.update(cam, truth, torch.tensor([0.0, 2.0]), 1)
    assert curve.compute()["max_box_acc"].tolist() == [1, 1, 1]
    assert curve.compute()["max_box_acc_v2"] == 1
    assert all(value == 1 for value in fixed.compute().values())
    curve.update(torch.zeros(10, 10), truth)
    fixed.update(torch.zeros(10, 10), truth, torch.tensor([2.0, 0.0]), 1)
    assert curve.compute()["max_box_acc"].tolist() == [0.5, 0.5, 0.5]
    assert [value.item() for value in fixed.compute().values()] == [0.5, 0.5, 0.5, 0.5, 1.0]


def test_version_two_takes_any_component():
    cam = torch.zeros(10, 10)
    cam[0:5, 0:5] = 1
    cam[7:9, 7:9] = 1
    curve = BoxCurve([0.5])
    curve.update(cam, torch.tensor([[7.0, 7.0, 9.0, 9.0]]))
    assert curve.compute()["max_box_acc"].tolist() == [0, 0, 0]
    assert curve.compute()["max_box_acc_v2"] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BoxCurve([0.5, 0.1]), "rising"),
        (lambda: BoxCurve(ious=[2]), "ious must be"),
        (lambda: BoxCurve().update(torch.zeros(4, 4), torch.tensor([[0, 0, 1, math.inf]])), "expected \\(m, 4\\)"),
        (lambda: Localization(1.5), "threshold must be 0 to 1"),
        (lambda: BoxCurve().update(torch.zeros(1, 4, 4), torch.tensor([[0, 0, 1, 1]])), "map is \\(H, W\\)"),
        (lambda: min_max(torch.full((2, 2), math.nan)), "NaN"),
        (lambda: BoxCurve().update(torch.zeros(4, 4), torch.zeros(0, 4)), "expected \\(m, 4\\)"),
        (lambda: BoxCurve().update(torch.zeros(4, 4), torch.tensor([[2, 0, 1, 1]])), "x1 > x0"),
        (lambda: Localization(0.5).update(torch.zeros(4, 4), torch.ones(1, 4), torch.zeros(3), 3), "label below K"),
        (lambda: Localization(0.5).update(torch.zeros(4, 4), torch.ones(1, 4), torch.full((3,), math.nan), 0), "NaN"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# A model on a list


@pytest.mark.parametrize(("square", "refiner"), [(None, None), (64, None), (64, PAMR())])
def test_a_list_is_measured_as_its_photos_are(tiny, cub, square, refiner):
    data, extractor = ImageDataset.from_cub(cub, "test"), CAMExtractor(tiny)
    tiny.train()
    report = measure_boxes(extractor, data, 0.3, square=square, refiner=refiner, progress=lambda items, _: items)
    assert tiny.training
    tiny.eval()
    fixed = Localization(0.3)
    for place, photo in enumerate(data):
        image = Image.open(photo.image)
        seen = image.resize((square, square), Image.Resampling.BILINEAR) if square else image
        name = data.class_names[photo.labels[0]]
        truth = np.array(photo.boxes) * ([seen.width / image.width, seen.height / image.height] * 2)
        views = torch.stack([normalize(to_tensor(seen), tiny.mean, tiny.std)] * 2)
        views[1] = views[1].flip(-1)
        with torch.no_grad():
            logits = tiny(views).mean(dim=0)
        (result,) = extractor(seen, [name])
        result = result if refiner is None else result.refined(refiner)
        fixed.update(result.maps[0], torch.from_numpy(truth), logits, tiny.class_names.index(name))
        expected = slow_overlaps(result.maps[0].numpy(), truth, 0.3)[0]
        assert report.overlaps[place] == pytest.approx(expected, abs=1e-3)
        back = report.boxes[place] * torch.tensor([seen.width / image.width, seen.height / image.height] * 2)
        assert torch.allclose(back, back.round(), atol=1e-6)
    assert report.localization.compute() == fixed.compute()
    assert report.outcomes.double().mean(dim=0).tolist() == pytest.approx(
        [value.item() for value in fixed.compute().values()]
    )


def test_boxes_are_taken_of_photos_as_the_model_takes_them(tiny, cub):
    """Upright and of 16 bits, as in training; a true box outside the photo is named."""
    data, extractor = ImageDataset.from_cub(cub, "train"), CAMExtractor(tiny)
    tiny.class_names = [*data.class_names, *[str(i) for i in range(tiny.num_classes - len(data.class_names))]]
    file = data[0].image
    pixels = np.random.default_rng(0).integers(0, 60000, (60, 90), dtype=np.uint16)
    Image.fromarray(pixels).save(file, "png")
    (expected,) = extractor(Image.open(file), [data[0].labels])
    threshold = 0.3
    found = measure_boxes(extractor, data, threshold).boxes[0]
    assert (
        found.tolist()
        == largest_boxes(component_boxes(min_max(expected.maps[0]), torch.tensor([threshold])), 1)[0].tolist()
    )
    data.samples[0] = data.samples[0]._replace(boxes=[(95.0, 0.0, 99.0, 5.0)])
    with pytest.raises(ValueError, match="lies outside its 90 x 60 pixels"):
        measure_boxes(extractor, data, threshold)


def test_a_class_that_the_model_lacks_is_named(tiny, cub):
    (cub / "classes.txt").write_text("1 001.cat\n2 002.heron\n")
    with pytest.raises(ValueError, match="no class heron"):
        measure_boxes(CAMExtractor(tiny), ImageDataset.from_cub(cub, "test"), 0.3)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_smooth_maps_of_real_size(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    cam = min_max(F.interpolate(torch.rand(1, 1, 14, 14), (120, 160), mode="bilinear")[0, 0])
    thresholds = torch.linspace(0, 0.99, 34)
    found = largest_boxes(component_boxes(cam.to(device), thresholds.to(device)), 34).cpu()
    for threshold, box in zip(thresholds, found.tolist(), strict=True):
        ys, xs = largest_component(cam >= threshold).nonzero().unbind(dim=1)
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
