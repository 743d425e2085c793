"""Measuring data sets of any classes, in Python: seeds, masks, segmentation, classification, boxes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from crt.cam import CAMExtractor
from crt.data import ImageDataset, Sample
from crt.evaluate import measure_boxes, measure_classification, measure_masks, measure_seeds, measure_segmentation
from crt.evaluate.classification import image_logits
from crt.evaluate.seeds import load_maps, seeds_of_folder, seeds_of_model
from crt.images import open_image
from crt.masks import save_mask
from crt.metrics.multilabel_ap import average_precision
from crt.models import CRT

from .conftest import TINY

NAMES = ["ripe", "unripe"]


@pytest.fixture
def fruit(tmp_path):
    """Three images of two classes that are not VOC's, one of them a negative, with masks."""
    random, samples = np.random.default_rng(0), []
    for number, labels in enumerate([[0], [0, 1], []]):
        name = f"f{number}"
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
        mask = torch.zeros(40, 50, dtype=torch.uint8)
        for label in labels:
            mask[10 + 10 * label : 20 + 10 * label, 5:45] = label + 1
        mask[0] = 255
        (tmp_path / "truth").mkdir(exist_ok=True)
        save_mask(mask, tmp_path / f"truth/{name}.png")
        box = [(5.0, 10.0, 45.0, 20.0)]
        samples.append(Sample(tmp_path / f"{name}.png", name, labels, tmp_path / f"truth/{name}.png", box))
    return ImageDataset(samples, NAMES)


def make_model(names, seed=0):
    torch.manual_seed(seed)
    return CRT("vit_tiny_patch16_224", num_classes=len(names), class_names=names, **TINY)


def perfect(data):
    """Maps that are the true masks."""
    for sample in data:
        mask = torch.from_numpy(np.array(Image.open(sample.mask)))
        yield torch.stack([(mask == i + 1).float() for i in (0, 1)])[sample.labels], sample.labels


def test_seeds_of_any_classes_are_measured(fruit):
    report = measure_seeds(perfect(fruit), fruit, [0.2, 0.5], fixed=0.3)
    assert report.columns() == {"fixed threshold": 1, "best on this list": 1, "oracle per image": 1}
    assert report.photos.tolist() == [[1, 1]] * 3
    assert report.curve.num_classes == 2


def test_the_order_of_a_models_classes_does_not_matter(fruit):
    model = make_model(["leaf", "unripe", "ripe"])
    found = list(seeds_of_model(CAMExtractor(model, flip=False), fruit))
    assert [labels for _, labels in found] == [[0], [1, 0], []]  # in the order of the model's
    (expected,) = CAMExtractor(model, flip=False)(open_image(fruit[1].image), [["ripe", "unripe"]])
    by_name = dict(zip(expected.names, expected.maps, strict=True))
    for cam, label in zip(*found[1], strict=True):
        assert torch.allclose(cam, by_name[NAMES[label]], atol=1e-5)
    with pytest.raises(ValueError, match="no class ripe"):
        next(seeds_of_model(CAMExtractor(make_model(["unripe", "rape"])), fruit))


def test_three_rules_of_thresholds_are_three_numbers(fruit):
    """Seeds that each image wants cut elsewhere: the oracle beats the best on the list, which beats a bad fixed one."""
    scales = iter([1.0, 0.4, 1.0])
    seeds = ((0.2 + 0.1 * k + maps * next(scales) * 0.6, labels) for k, (maps, labels) in enumerate(perfect(fruit)))
    found = measure_seeds(seeds, fruit, [i / 20 for i in range(20)], fixed=0.9).columns()
    assert found["fixed threshold"] < found["best on this list"] <= found["oracle per image"] <= 1


def test_maps_that_are_not_finite_are_refused(fruit):
    seeds = ((maps * float("nan"), labels) for maps, labels in perfect(fruit))
    with pytest.raises(ValueError, match="f0.png: the maps have NaN or infinite values"):
        measure_seeds(seeds, fruit, [0.5])


def test_images_without_masks_are_refused(fruit):
    bare = ImageDataset([sample._replace(mask=None) for sample in fruit], NAMES)
    with pytest.raises(ValueError, match="3 of 3 images have no true mask, the first: f0"):
        measure_seeds(perfect(fruit), bare, [0.5])


def test_folders_of_masks_need_class_names_and_no_labels(fruit, tmp_path):
    (tmp_path / "preds").mkdir()
    for sample in fruit:
        mask = np.array(Image.open(sample.mask))
        save_mask(np.where(mask == 255, 0, mask), tmp_path / f"preds/{sample.name}.png")
    for target in (tmp_path / "truth", fruit):
        found = measure_masks(tmp_path / "preds", target, NAMES)
        assert found.masks.compute()["miou"] == 1 and found.boundaries.compute()["miou"] == 1
        assert (found.names, found.photos.tolist()) == (["f0", "f1", "f2"], [1, 1, 1])
    with pytest.raises(ValueError, match="class_names"):
        measure_masks(tmp_path / "preds", tmp_path / "truth")
    with pytest.raises(ValueError, match="with 1 classes they are 0 to 1"):
        measure_masks(tmp_path / "preds", tmp_path / "truth", ["ripe"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no true masks"):
        measure_masks(tmp_path / "preds", tmp_path / "empty", NAMES)


def test_unsure_pixels_of_a_mask_are_explained(fruit, tmp_path):
    (tmp_path / "preds").mkdir()
    for sample in fruit:
        mask = np.array(Image.open(sample.mask))
        save_mask(np.where(mask == 1, 255, 0), tmp_path / f"preds/{sample.name}.png")
    with pytest.raises(ValueError, match="255, which mark unsure places.*single threshold"):
        measure_masks(tmp_path / "preds", fruit)


def test_segmentation_without_labels(fruit):
    truth = {sample.name: np.array(Image.open(sample.mask)) for sample in fruit}
    bare = ImageDataset([sample._replace(labels=[]) for sample in fruit], NAMES)
    order = iter(truth.values())

    def predict(image):
        assert image.shape == (3, 40, 50) and image.dtype == torch.uint8
        mask = next(order)
        return torch.from_numpy(np.where(mask == 255, 0, mask))

    found = measure_segmentation(predict, bare)
    assert found.masks.compute()["miou"] == 1
    worse = measure_segmentation(lambda image: torch.zeros(40, 50, dtype=torch.long), bare)
    assert worse.masks.compute()["iou"][1:].tolist() == [0, 0] and worse.photos[2] == 1


def test_classification_ranks_by_the_models_logits(fruit):
    model = make_model(["unripe", "ripe"])
    extractor = CAMExtractor(model, flip=False)
    logits = torch.stack([image_logits(extractor, open_image(sample.image)) for sample in fruit])[:, [1, 0]]
    expected = average_precision(logits, torch.tensor([[1, 0], [1, 1], [0, 0]]))
    assert torch.equal(measure_classification(extractor, fruit).compute()["ap"], expected)


def test_logits_follow_autocast_and_leave_every_mode(fruit):
    """The logits of `crt eval boxes --bf16` were float32: the reader's thread computed them, outside autocast."""
    one = ImageDataset(fruit.samples[:1], NAMES)
    model = make_model(NAMES).train()
    model.head.eval()
    modes = [module.training for module in model.modules()]
    seen = []
    handle = model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            measure_boxes(CAMExtractor(model), one, 0.3)
        assert set(seen) == {torch.bfloat16 if enabled else torch.float32}
        seen.clear()
    handle.remove()
    assert [module.training for module in model.modules()] == modes


def test_localization_needs_one_class_and_boxes(fruit):
    with pytest.raises(ValueError, match="2 of 3 lack them, the first: f1"):
        measure_boxes(CAMExtractor(make_model(NAMES)), fruit, 0.3)


@pytest.mark.parametrize(
    "names", ["[" * 100_000, "{", '[["ripe"]]', "[1]", '"ripe"', "NaN", '["ripe", "ripe"]', '["\\u001b[31m"]']
)
def test_odd_metadata_of_maps_is_one_short_line(tmp_path, names):
    path = tmp_path / "f0.safetensors"
    save_file({"maps": torch.zeros(1, 4, 5), "labels": torch.tensor([0])}, path, {"names": names})
    with pytest.raises(ValueError, match="f0.safetensors") as error:
        load_maps(path, NAMES)
    assert len(str(error.value)) < 800 and "\x1b" not in str(error.value)


def test_maps_of_the_wrong_kind_are_refused(tmp_path, fruit):
    path = tmp_path / "f0.safetensors"
    for maps, message in (
        (torch.zeros(1, 4, 5, dtype=torch.int8), "floating"),
        (torch.full((1, 4, 5), torch.inf), "NaN"),
    ):
        save_file({"maps": maps, "labels": torch.tensor([0])}, path, {"names": json.dumps(["ripe"])})
        with pytest.raises(ValueError, match=message):
            load_maps(path, NAMES)
    with pytest.raises(FileNotFoundError, match="no maps of 'f1'"):
        seeds_of_folder(tmp_path, fruit)
