"""The refinement stage: it learns where squares end, goes on exactly where it was stopped, mistakes are named."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("accelerate", reason="needs the extra `train`")

from typer.testing import CliRunner

from crt.cam import CAMExtractor, CAMResult
from crt.cli import app
from crt.data import ImageDataset
from crt.losses import boundary_loss
from crt.masks import load_mask, save_mask
from crt.models import BoundaryNet
from crt.pseudo import make_pseudo_masks
from crt.pseudo.cut import cut_mask
from crt.refine import create_refiner
from crt.train import RECIPES, build_boundary_net, make_recipe, train_refine
from crt.train.crops import Crops
from crt.train.recipe import RefineRecipe

from .test_train import folder, photos_of  # noqa: F401 (fixtures)
from .test_train_masks import masked  # noqa: F401

QUICK = RefineRecipe(
    backbone="mobilenetv3_small_050", displacement_width=16, boundary_width=16, epochs=1, batch_size=4, crop=32,
    radius=3, long_side=(60, 100), lr=0.02, head_factor=2.0,
)  # fmt: skip


def test_it_learns(masked, folder):  # noqa: F811
    recipe = dataclasses.replace(QUICK, epochs=9, lr=0.05)
    net = build_boundary_net(recipe, seed=1)
    crops = Crops(masked, recipe, net.config["mean"], net.config["std"], seed=7)
    images, _, masks = (torch.stack(parts) for parts in zip(*(crops[0, i] for i in range(24)), strict=True))
    labels = masks[:, 2::4, 2::4]

    def losses():
        with torch.no_grad():
            return boundary_loss(*net.eval().forward_maps(images), labels, radius=3)

    before = losses()
    trained = train_refine(net, masked, folder / "run", recipe, workers=0)
    assert trained is net and not trained.training
    after = losses()
    assert after.affinity < 0.95 * before.affinity and after.displacement < 0.8 * before.displacement
    line, last = (json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines())
    assert (line["step"], last["step"]) == (50, 54) and {"total", "affinity", "displacement"} < line.keys()
    again = create_refiner(f"local-dir:{folder / 'run/model'}", pretrained=True).boundary
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in again.state_dict().items())


class _Stop(Exception):
    pass


def test_stopped_and_resumed_equals_never_stopped(masked, folder):  # noqa: F811
    def run(out, stop=None):
        def watched(steps, first, total, status):
            firsts.append((first, total))
            for number, step in enumerate(steps, first):
                if number == stop:
                    raise _Stop
                yield step

        net = build_boundary_net(QUICK, seed=0)
        train_refine(net, masked, folder / out, QUICK, seed=3, save_every=2, workers=0, progress=watched)

    firsts = []
    run("whole")
    with pytest.raises(_Stop):
        run("stopped", stop=5)
    assert not (folder / "stopped/model").exists()
    run("stopped")
    assert firsts == [(0, 6), (0, 6), (4, 6)]
    one, other = (load_file(folder / run / "model/model.safetensors") for run in ("whole", "stopped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="radius: 3 then, 4 now"):
        train_refine(
            build_boundary_net(QUICK), masked, folder / "whole", dataclasses.replace(QUICK, radius=4), seed=3, workers=0
        )


def test_mistakes_are_named(masked, folder):  # noqa: F811
    net = build_boundary_net(QUICK)
    with pytest.raises(ValueError, match="learns from masks"):
        train_refine(net, photos_of(folder), folder / "run", QUICK)
    with pytest.raises(ValueError, match="'no' or 'bf16'"):
        train_refine(net, masked, folder / "run", QUICK, precision="fp8")
    with pytest.raises(FileNotFoundError, match="no weights file"):
        build_boundary_net(QUICK, backbone_checkpoint=folder / "none.safetensors")


def test_recipes():
    paper = RECIPES["irn-paper"]
    assert (paper.backbone, paper.crop, paper.batch_size, paper.epochs, paper.lr) == ("resnet50", 512, 32, 3, 0.1)
    assert (paper.optimizer, paper.head_factor, paper.radius, paper.power) == ("sgd", 10.0, 10, 0.9)
    small = make_recipe("irn-lite0-voc9k", ["crop=224", "clip=5"])
    assert (small.backbone, small.batch_size, small.crop, small.clip) == ("tf_efficientnet_lite0", 16, 224, 5)
    for preset, change, message in [
        ("paper", "", "irn-lite0-voc9k, irn-paper"),
        ("irn-paper", "crop=225", "a multiple of 4"),
        ("irn-paper", "radius=1", "from 2 to 100"),
        ("irn-paper", "raduis=5", "Did you mean 'radius'"),
        ("irn-paper", "optimizer=adam", "one of adamw, sgd"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_recipe(preset, [change] if change else [], stage=RefineRecipe)


def test_backbone_weights_are_loaded(tmp_path):
    import timm
    from safetensors.torch import save_file

    whole = timm.create_model(QUICK.backbone)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    net = build_boundary_net(QUICK, backbone_checkpoint=tmp_path / "w.safetensors")
    assert torch.equal(net.backbone.conv_stem.weight, whole.conv_stem.weight)


def test_command(masked, folder):  # noqa: F811
    (folder / "masks").mkdir()
    for photo in masked.samples:
        save_mask(load_mask(photo.mask), folder / "masks" / photo.mask.name)
    places = ["--images", folder / "photos", "--labels", folder / "labels.csv", "--masks", folder / "masks"]
    changed = ["backbone=mobilenetv3_small_050", "epochs=1", "batch_size=12", "crop=32", "radius=2", "lr=0.01"]
    options = ["--no-pretrained", "--workers", "0", *(part for s in changed for part in ("--set", s))]
    command = [str(part) for part in ["train", "refine", "--out", folder / "run", *places, *options]]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert not BoundaryNet.from_pretrained(folder / "run/model").training
    for wrong, message in [(["--set", "x=1"], "unknown setting"), (["--voc", "."], "give one of --images")]:
        done = CliRunner().invoke(app, [*command, *wrong])
        assert done.exit_code == 2 and message in " ".join(done.output.split())


def test_confident_labels_are_irns():
    """Sure are the classes that the higher threshold leaves and the background that the lower one leaves."""
    maps = torch.tensor([[[0.1, 0.2, 0.5, 0.0], [0.1, 0.9, 0.3, 0.0]], [[0.0, 0.3, 0.6, 0.1], [0.12, 0.1, 0.36, 0.4]]])
    result = CAMResult(
        maps=maps, labels=[2, 6], class_names=None, seed_threshold=0.15,
        pixels=torch.zeros(3, 2, 4, dtype=torch.uint8), normalized=True,
    )  # fmt: skip
    calls = []

    def clean(image, labels, count):
        calls.append((image.shape, count, labels.clone()))
        return labels

    mask = cut_mask(result, None, 0.15, 0.35, clean)
    assert mask.tolist() == [[0, 255, 7, 0], [0, 3, 7, 7]]
    assert torch.equal(mask, cut_mask(result, None, 0.15, 0.35))
    assert [call[:2] for call in calls] == [((3, 2, 4), 3)] * 2
    assert calls[0][2].tolist() == [[0, 0, 2, 0], [0, 1, 2, 2]] and calls[1][2].tolist() == [[0, 2, 2, 0], [0, 1, 2, 2]]
    erased = cut_mask(result, None, 0.15, 0.35, lambda image, labels, count: labels * (labels == 1))
    assert erased.tolist() == [[0, 0, 0, 0], [0, 3, 0, 0]]
    assert np.array_equal(cut_mask(result, None, 0.35, 0.35, clean), cut_mask(result, None, 0.35, 0.35))


def test_cleaned_masks_are_other_masks(masked, folder, tiny):  # noqa: F811
    photos = ImageDataset(masked.samples[:2], masked.class_names)
    arguments = (CAMExtractor(tiny, flip=False), None, photos, folder / "out")
    make_pseudo_masks(*arguments, threshold=(0.15, 0.35), clean=lambda image, labels, count: labels)
    with pytest.raises(ValueError, match="clean: {'function'.* then, None now"):
        make_pseudo_masks(*arguments, threshold=(0.15, 0.35))
