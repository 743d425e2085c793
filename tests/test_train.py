"""The CAM stage: it learns, it goes on exactly where it was killed, two processes train, mistakes are named."""

import csv
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

pytest.importorskip("accelerate", reason="needs the extra `train`")

from typer.testing import CliRunner

from crt.cli import app
from crt.data import ImageDataset
from crt.images import normalize, open_image
from crt.models import CRT
from crt.models.dual import DualBranch
from crt.train import RECIPES, build_branches, make_recipe, train_cam
from crt.train.crops import Crops, batch_plan
from crt.train.recipe import CAMRecipe

from .conftest import TINY

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
QUICK = CAMRecipe(cnn=None, epochs=2, batch_size=4, lr=1e-3, warmup=0, crop=64, area=(0.5, 1.0))


@pytest.fixture
def folder(tmp_path):
    """24 photos of one or two coloured squares on noise, and their labels."""
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "labels"])
        for i in range(24):
            names = sorted(random.choice(list(COLOURS), size=random.integers(1, 3), replace=False))
            pixels = random.integers(90, 160, (80, 100, 3), dtype=np.uint8)
            for place, name in enumerate(names):
                pixels[20:60, 10 + 45 * place : 45 + 45 * place] = COLOURS[name]
            Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
            table.writerow([f"{i}.png", " ".join(names)])
    return tmp_path


def tiny_model(names):
    torch.manual_seed(0)
    return DualBranch(
        CRT("vit_tiny_patch16_224", class_names=names, num_classes=len(names), num_passes=0, **TINY), None
    )


def photos_of(folder):
    return ImageDataset.from_csv(folder / "photos", folder / "labels.csv")


def test_it_learns(folder):
    photos = photos_of(folder)
    recipe = make_recipe("t16-voc9k", ["cnn=null", "epochs=20", "batch_size=8", "lr=0.002", "crop=64", "warmup=5"])
    model = train_cam(tiny_model(photos.class_names), photos, folder / "run", recipe, workers=0)
    assert not model.training
    lines = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 60]
    right = 0
    for photo in photos:
        with torch.no_grad():
            logits = model(normalize(open_image(photo.image), model.mean, model.std)[None])[0]
        right += (logits > 0).nonzero().flatten().tolist() == photo.labels
    assert right >= 20
    again = CRT.from_pretrained(folder / "run/model")
    assert again.class_names == ["blue", "green", "red"]
    assert torch.equal(again.head.weight, model.head.weight)


def test_photos_without_the_class_are_negatives(folder):
    """With one class, and photos that do not show it, the logit tells which do."""
    photos = photos_of(folder)
    red = photos.class_names.index("red")
    samples = [sample._replace(labels=[0] if red in sample.labels else []) for sample in photos]
    photos = ImageDataset(samples, ["red"])
    crops = Crops(photos, QUICK, (0.5,) * 3, (0.5,) * 3, seed=0)
    assert [crops[0, i][1].tolist() for i in range(24)] == [[float(bool(s.labels))] for s in samples]
    recipe = dataclasses.replace(QUICK, epochs=20, batch_size=8, lr=2e-3)
    model = train_cam(tiny_model(["red"]), photos, folder / "run", recipe, workers=0)
    with torch.no_grad():
        logits = [float(model(crops[99, i][0][None])) for i in range(24)]
    right = [(logit > 0) == bool(sample.labels) for logit, sample in zip(logits, samples, strict=True)]
    assert sum(right) >= 20


def test_labels_that_teach_nothing_are_refused(folder):
    photos = photos_of(folder)
    photos = ImageDataset([sample._replace(labels=[0]) for sample in photos], ["red"])
    with pytest.raises(ValueError, match="all 24 photos show"):
        train_cam(tiny_model(["red"]), photos, folder / "run", QUICK)
    train_cam(tiny_model(["red"]), photos, folder / "run", dataclasses.replace(QUICK, epochs=1), force=True, workers=0)


SCRIPT = """
import os, sys, torch
from pathlib import Path
from tests.test_train import QUICK, photos_of, tiny_model
from crt.train import train_cam
torch.set_num_threads(1)
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
photos = photos_of(folder)
model = tiny_model(photos.class_names)
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = float(os.environ.get("DROPOUT", 0))
train_cam(model, photos, out, QUICK, seed=3, save_every=2, workers=0,
          progress=lambda steps, first, total, status: (print(first + i, flush=True) or s for i, s in enumerate(steps)))
"""


def start(folder, out, **more):
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "ACCELERATE_USE_CPU": "1", **more}
    command = [sys.executable, "-c", SCRIPT, str(folder), str(folder / out)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_killed_and_resumed_equals_never_stopped(folder):
    whole = start(folder, "whole", DROPOUT="0.2")  # random numbers of the network itself
    assert whole.wait(120) == 0
    killed = start(folder, "killed", DROPOUT="0.2")
    for line in killed.stdout:
        if int(line) >= 5:  # the checkpoint is of step 4
            killed.send_signal(signal.SIGKILL)
            break
    assert killed.wait(60) == -signal.SIGKILL
    assert not (folder / "killed/model").exists()
    resumed = start(folder, "killed", DROPOUT="0.2")
    steps = [int(line) for line in resumed.stdout]
    assert resumed.wait(120) == 0
    assert steps[0] in (4, 6)
    logged = [json.loads(line)["step"] for line in (folder / "killed/log.jsonl").read_text().splitlines()]
    assert logged == sorted(set(logged)) and logged[-1] == 12
    one, other = (load_file(folder / run / "model/model.safetensors") for run in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_train_as_one(folder):
    port = str(free_port())
    ranks = [
        start(folder, "two", RANK=str(i), LOCAL_RANK=str(i), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        for i in range(2)
    ]
    assert [rank.wait(180) for rank in ranks] == [0, 0]
    assert start(folder, "one").wait(120) == 0
    one, two = (load_file(folder / run / "model/model.safetensors") for run in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-2, atol=2e-3)


def test_a_run_with_other_settings_is_not_continued(folder):
    photos = photos_of(folder)
    train_cam(tiny_model(photos.class_names), photos, folder / "run", QUICK, workers=0)
    with pytest.raises(ValueError, match="seed: 0 then, 1 now"):
        train_cam(tiny_model(photos.class_names), photos, folder / "run", QUICK, seed=1, workers=0)
    checkpoint = folder / "run/checkpoint.safetensors"
    content = bytearray(checkpoint.read_bytes())
    content[-4000:] = bytes(byte ^ 1 for byte in content[-4000:])
    checkpoint.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        train_cam(tiny_model(photos.class_names), photos, folder / "run", QUICK, workers=0)
    checkpoint.write_bytes(b"half")
    with pytest.raises(ValueError, match="damaged"):
        train_cam(tiny_model(photos.class_names), photos, folder / "run", QUICK, workers=0)


def test_other_photos_or_precision_are_another_run(folder):
    photos = photos_of(folder)
    train_cam(tiny_model(photos.class_names), photos, folder / "run", QUICK, workers=0)
    with pytest.raises(ValueError, match="precision: no then, bf16 now"):
        train_cam(tiny_model(photos.class_names), photos, folder / "run", QUICK, precision="bf16", workers=0)
    run = partial(train_cam, tiny_model(photos.class_names), photos, folder / "begun", QUICK, workers=0)
    run(settings={"start": "a"})
    with pytest.raises(ValueError, match="start: a then, b now"):
        run(settings={"start": "b"})
    before = photos.samples[0]
    photos.samples[0] = before._replace(labels=[0, 1, 2])
    with pytest.raises(ValueError, match="data: "):
        train_cam(tiny_model(photos.class_names), photos, folder / "run", QUICK, workers=0)
    photos.samples[0] = before
    Image.new("RGB", (80, 100)).save(before.image)
    with pytest.raises(ValueError, match="data: "):
        train_cam(tiny_model(photos.class_names), photos, folder / "run", QUICK, workers=0)
    with pytest.raises(ValueError, match="'no' or 'bf16'"):
        train_cam(tiny_model(photos.class_names), photos, folder / "other", QUICK, precision="fp8", workers=0)


def test_the_environment_changes_no_run_that_says_what_it_wants(folder, monkeypatch):
    photos, weights = photos_of(folder), []
    for run in ("plain", "told"):
        model = train_cam(tiny_model(photos.class_names), photos, folder / run, QUICK, precision="no", workers=0)
        weights.append(model.head.weight)
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert torch.equal(*weights)


def test_a_compiled_run_leaves_a_plain_model(folder, monkeypatch):
    compiled, original = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda m: compiled.append(1) or original(m, backend="eager"))
    photos = photos_of(folder)
    model = train_cam(tiny_model(photos.class_names), photos, folder / "run", QUICK, compile=True, workers=0)
    assert compiled
    image = Image.open(photos[0].image)
    model(torch.randn(1, 3, 64, 64))
    again = CRT.from_pretrained(folder / "run/model")
    torch.testing.assert_close(model.cam(image, [0]), again.cam(image, [0]), rtol=1e-4, atol=1e-5)


def test_labels_of_several_words(folder):
    (folder / "labels.csv").write_text("file,labels\n0.png,traffic light;car\n1.png,car\n")
    photos = photos_of(folder)
    assert photos.class_names == ["car", "traffic light"]
    assert photos[0].labels == [0, 1]


def test_training_sees_photos_as_inference_does(folder):
    dark = Image.fromarray(np.full((80, 100), 20000, np.uint16))
    dark.save(folder / "photos/0.png")
    crop, _ = Crops(photos_of(folder), QUICK, (0.0,) * 3, (1.0,) * 3, seed=0)[0, 0]
    assert crop.max() == pytest.approx(20000 / 65535, abs=0.01)


def test_samples_depend_on_their_key_alone(folder):
    photos = photos_of(folder)
    for recipe in (QUICK, CAMRecipe(crop=96, area=None, long_side=(60, 90))):
        crops = Crops(photos, recipe, (0.5,) * 3, (0.5,) * 3, seed=0)
        first, target = crops[1, 5]
        torch.rand(7)
        assert torch.equal(crops[1, 5][0], first)
        assert not torch.equal(crops[2, 5][0], first)
        assert first.shape == (3, recipe.crop, recipe.crop)
        assert target.nonzero().flatten().tolist() == photos[5].labels


def test_plan_visits_every_photo_once_an_epoch():
    plan = batch_plan(10, 3, 2, seed=0)
    assert len(plan) == 6
    for epoch in range(2):
        seen = [i for batch in plan for e, i in batch if e == epoch]
        assert len(seen) == len(set(seen)) == 9
    assert plan == batch_plan(10, 3, 2, seed=0) != batch_plan(10, 3, 2, seed=1)
    with pytest.raises(ValueError, match="do not fill"):
        batch_plan(2, 3, 1, seed=0)


@pytest.mark.parametrize(
    ("text", "error", "parts"),
    [
        ("file,labels\n0.png,red\n0.png,red\n", ValueError, ["line 3", "twice"]),
        ("file,labels\n0.png\n", ValueError, ["line 2", "1 of 2 cells"]),
        ("file,labels\nnone.png,red\n", FileNotFoundError, ["line 2", "none.png"]),
        ("name,labels\n0.png,red\n", ValueError, ["line 1", "file"]),
        ("file,labels\n", ValueError, ["no rows"]),
        ("file,labels\n0.png,red,blue\n", ValueError, ["line 2", "more cells"]),
        ("file,labels\n0.png,red\n1.png,rad\n", ValueError, ["line 3", "Did you mean 'red'"]),
    ],
)
def test_mistakes_in_a_table_are_named(folder, text, error, parts):
    (folder / "labels.csv").write_text(text)
    with pytest.raises(error) as caught:
        ImageDataset.from_csv(folder / "photos", folder / "labels.csv", class_names=["red", "green", "blue"])
    for part in ["labels.csv", *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_photo_is_named(folder, workers):
    (folder / "photos/3.png").write_bytes(b"no picture")
    photos = photos_of(folder)
    with pytest.raises(OSError, match=r"3\.png") as caught:
        train_cam(tiny_model(photos.class_names), photos, folder / "run", QUICK, workers=workers)
    assert "Traceback" not in str(caught.value)


def test_single_labels(folder):
    """Cross entropy on photos of one class; photos of two are refused."""
    recipe = dataclasses.replace(QUICK, single_label=True)
    with pytest.raises(ValueError, match="one class each .*0 of 24 show none of the classes and .* show several"):
        train_cam(tiny_model(["a", "b", "c"]), photos_of(folder), folder / "run", recipe)
    photos = photos_of(folder)
    photos = ImageDataset([p for p in photos.samples if len(p.labels) == 1], photos.class_names)
    recipe = dataclasses.replace(recipe, epochs=25, lr=2e-3)
    model = train_cam(tiny_model(photos.class_names), photos, folder / "run", recipe, workers=0)
    logits = [model(normalize(open_image(p.image), model.mean, model.std)[None])[0] for p in photos.samples]
    right = [int(scores.argmax()) == p.labels[0] for scores, p in zip(logits, photos.samples, strict=True)]
    assert sum(right) >= 0.8 * len(right)


def test_recipes():
    paper = RECIPES["paper"]
    assert (paper.model, paper.num_passes, paper.crop, paper.epochs, paper.lr) == ("crt_vit_s16", 3, 336, 10, 0.1)
    changed = make_recipe("paper", ["cnn=resnet50", "lr=1", "area=[0.2, 1.0]", "clip=null"])
    assert (changed.cnn, changed.lr, changed.area, changed.clip) == ("resnet50", 1.0, (0.2, 1.0), None)
    for preset, change, message in [
        ("papers", "", "t16-voc9k, t16-voc9k-masks, t16-cub50, frozen, paper, paper-wsol"),
        ("irn-paper", "", "unknown recipe 'irn-paper'"),
        ("paper", "epoch=3", "Did you mean 'epochs'"),
        ("paper", "epochs=many", "epochs must be a whole number from 1 to 10000, got 'many'"),
        ("paper", "lr=true", "lr must be a number above 0 and at most 1000, got True"),
        ("paper", "lr=NaN", "lr must be a number above 0 and at most 1000, got nan"),
        ("paper", "power=-1", "power must be a number from 0 to 100, got -1"),
        ("paper", "head_factor=-1", "head_factor must be a number above 0"),
        ("paper", "clip=abc", "clip must be a number above 0 and at most 1e.09, or null, got 'abc'"),
        ("paper", 'area=["a","b"]', "area must be two values .low, high., each a number above 0"),
        ("paper", "area=small", "area must be two values"),
        ("paper", "long_side=[1.5,2.5]", "long_side must be two values .low, high., each a whole number"),
        ("paper", "lr=null", "got None"),
        ("paper", "optimizer=SGD", "optimizer must be one of adamw, sgd, got 'SGD'"),
        ("paper", "epochs=0", "from 1 to 10000, got 0"),
        ("paper", "area=[0.5]", "two values"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_recipe(preset, [change] if change else [], stage=CAMRecipe)


@pytest.mark.parametrize(("vit", "cnn"), [("crt_vit_t16", "resnet18"), ("crt_vit_s16", "mobilenetv3_small_050")])
def test_any_branches(vit, cnn):
    model = build_branches(CAMRecipe(model=vit, cnn=cnn), ["a", "b"])
    losses = model.loss(torch.randn(1, 3, 224, 224), torch.ones(1, 2))
    assert torch.isfinite(losses.total)


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [("none.safetensors", FileNotFoundError, "no weights file"), ("w.pth", ValueError, "not a")],
)
def test_cnn_weights_are_checked_as_the_vits_are(tmp_path, file, error, message):
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(error, match=message):
        build_branches(CAMRecipe(cnn="resnet18"), ["a"], cnn_checkpoint=tmp_path / file)


def test_command(folder):
    arguments = [
        "train",
        "cam",
        "--out",
        folder / "run",
        "--images",
        folder / "photos",
        "--labels",
        folder / "labels.csv",
    ]
    settings = ["cnn=null", "epochs=1", "batch_size=12", "num_passes=0"]
    options = ["--no-pretrained", "--workers", "0", *(part for s in settings for part in ("--set", s))]
    done = CliRunner().invoke(app, [str(part) for part in arguments + options])
    assert done.exit_code == 0, done.output
    assert CRT.from_pretrained(folder / "run/model").num_passes == 0
    for wrong, message in [(["--set", "x=1"], "unknown setting"), (["--voc", "."], "give one of --images")]:
        done = CliRunner().invoke(app, [str(part) for part in arguments + wrong])
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())
