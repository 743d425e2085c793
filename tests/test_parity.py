"""Agreement with tensors that the public reference produced (see tests/golden, ../shared/golden/README.md)."""

import pytest
import torch
from safetensors.torch import load_file

from crt.cam.functional import merge_scales, normalize_cam
from crt.models import CRT

from .conftest import GOLDEN


def assert_agrees(ours, theirs):
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "vit_branch.safetensors")


@pytest.fixture(scope="module")
def reference(golden):
    weights = {name.removeprefix("weights."): value for name, value in golden.items() if name.startswith("weights.")}
    return CRT.from_reference(weights, num_heads=2)


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_training_map(reference, golden, training):
    assert_agrees(reference.train(training).forward_maps(golden["train.input"]), golden["train.map"])


@pytest.mark.parametrize("case", [0, 1, 2])
def test_cam_of_image_and_mirror(reference, golden, case):
    ours = reference.raw_cam(golden[f"cam{case}.input"], align="reference")
    assert_agrees(ours[0], golden[f"cam{case}.cam"])


def test_multi_scale_merge():
    golden = load_file(GOLDEN / "multi_scale.safetensors")
    maps = [golden[f"scale{i}"][golden["labels"]] for i in range(3)]
    height, width = golden["size"].tolist()
    strided = ((height - 1) // 4 + 1, (width - 1) // 4 + 1)
    assert_agrees(normalize_cam(merge_scales(maps, strided)), golden["cam"])
    assert_agrees(normalize_cam(merge_scales(maps, (height, width), align="reference")), golden["high_res"])


def test_architecture_is_read_off_the_shapes(golden, reference):
    assert (reference.num_classes, reference.tile, reference.stride, reference.num_passes) == (5, 224, 112, 3)
    assert len(reference.backbone.blocks) == 12
    state = {f"module.{name}": value for name, value in reference.backbone.state_dict().items()}
    head = {f"module.head.{name}": value for name, value in reference.head.state_dict().items()}
    again = CRT.from_reference({**state, **head}, num_heads=2, num_passes=1)
    assert again.num_passes == 1


@pytest.mark.parametrize("lost", ["pos_embed", "head.weight", "blocks.3.mlp.fc1.bias"])
def test_what_is_missing_is_named(golden, lost):
    weights = {name.removeprefix("weights."): value for name, value in golden.items() if name.startswith("weights.")}
    del weights[lost]
    with pytest.raises(ValueError, match=lost.split(".", 1)[0]):
        CRT.from_reference(weights, num_heads=2)
