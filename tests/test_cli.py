"""The command line: what it writes, and how it ends on bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import crt
from crt.cam import PRESETS
from crt.cli import app
from crt.masks import load_mask, save_mask
from crt.models import CRT

from .conftest import TINY

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "chelsea.jpg"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_cam_writes_overlay_mask_and_maps(model, tmp_path):
    done = run("cam", PHOTO, "--labels", "cat, dog", "--out", tmp_path / "out", "--model", model, "--scales", "0.5")
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    assert names(out) == ["chelsea.cam.safetensors", "chelsea.mask.png", "chelsea.png"]
    with Image.open(PHOTO) as photo:
        width, height = photo.size
    assert set(np.unique(load_mask(out / "chelsea.mask.png"))) <= {0, 8, 12}
    maps = load_file(out / "chelsea.cam.safetensors")
    assert maps["labels"].tolist() == [7, 11]
    assert maps["maps"].shape == (2, height, width)
    with Image.open(out / "chelsea.png") as picture:
        assert picture.width == 1000


def test_given_options_replace_the_presets(model, voc, tmp_path):
    measure = ["eval", "cam", "--voc", voc, "--list", "train", "--model", model, "--json", tmp_path / "r.json"]
    seen = []
    for options in [(), ("--preset", "paper"), ("--preset", "paper", "--scales", "0.3", "--no-flip", "--stride", "16")]:
        assert run(*measure, *options).exit_code == 0
        record = json.loads((tmp_path / "r.json").read_text())
        seen.append((tuple(record["scales"]), record["flip"], record["stride"]))
    assert seen[0] == (PRESETS["fast"]["scales"], False, 64)
    assert seen[1] == (PRESETS["paper"]["scales"], True, 32)
    assert seen[2] == ((0.3,), False, 16)


def test_predicted_labels_and_threshold(model, tmp_path):
    done = run("cam", PHOTO, "--out", tmp_path / "out", "--model", model, "--scales", "0.3", "--threshold", "1")
    assert done.exit_code == 0, done.output
    assert not load_mask(tmp_path / "out/chelsea.mask.png").any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "kat"], "Did you mean 'cat'"),
        (["--labels", " , "], "names no class"),
        (["--scales", "a"], "--scales 'a'"),
        (["--scales", "0"], "above 0"),
        (["--preset", "quick"], "paper, fast"),
        (["--stride", "24"], "multiple of the model's patch"),
        (["--device", "gpu7"], "--device gpu7"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--device", "meta"], "--device meta"),
        (["--model", "crt_vit_t17"], "crt_vit_t16"),
        (["--model", "local-dir:/nowhere"], "/nowhere"),
        (["--batch-size", "0"], "--batch-size"),
        (["--threshold", "2"], "--threshold"),
        (["missing.jpg"], "missing.jpg"),
    ],
)
def test_bad_input_ends_with_2_and_writes_nothing(model, tmp_path, arguments, message):
    if "--model" not in arguments:
        arguments = [*arguments, "--model", model]
    done = run("cam", PHOTO, "--out", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_a_broken_photo_does_not_stop_the_others(model, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(PHOTO.read_bytes()[:2000])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    photos = [tmp_path / name for name in ("broken.jpg", "text.jpg", "empty.jpg")]
    done = run("cam", *photos, PHOTO, "--labels", "cat", "--out", tmp_path / "out", "--model", model, "--scales", "0.3")
    assert done.exit_code == 2
    assert done.output.count("error:") == 3
    assert all(photo.name in done.output for photo in photos)
    assert names(tmp_path / "out") == ["chelsea.cam.safetensors", "chelsea.mask.png", "chelsea.png"]


def test_a_large_photo_is_read_small_and_its_mask_is_of_its_size(model, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (500, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((3000, 6000)).save(tmp_path / "large.png")
    photos = [tmp_path / "large.png", tmp_path / f"{'x' * 300}.png", PHOTO]  # the second is a name no file can have
    done = run("cam", *photos, "--labels", "cat", "--out", tmp_path / "out", "--model", model, "--scales", "0.3")
    assert done.exit_code == 2
    assert done.output.count("error:") == 1 and "1 of 3 images failed" in done.output
    assert load_file(tmp_path / "out/large.cam.safetensors")["maps"].shape == (1, 2048, 1024)
    mask = load_mask(tmp_path / "out/large.mask.png")
    assert mask.shape == (6000, 3000)
    assert set(np.unique(mask)) == {0, 8}


def test_strange_names_stay_in_the_folder(model, tmp_path):
    for name in ("..  .jpg", "a;b$(c).jpg", "\u00e9t\u00e9.jpg", ".hidden.jpg"):
        shutil.copy(PHOTO, tmp_path / name)
        done = run("cam", tmp_path / name, "--out", tmp_path / "in/out", "--model", model, "--scales", "0.2")
        assert done.exit_code == 0, done.output
    written = names(tmp_path / "in/out")
    assert len(written) == 12
    assert not any(name.startswith(".") for name in written)
    assert names(tmp_path / "in") == ["out"]


def test_nothing_is_overwritten_by_half(model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "chelsea.mask.png").write_bytes(b"old")

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    done = run("cam", PHOTO, "--labels", "cat", "--out", out, "--model", model, "--scales", "0.2")
    assert done.exit_code == 2
    assert "No space left" in done.output and "chelsea.mask.png" in done.output.split("No space left")[1]
    assert names(out) == ["chelsea.mask.png"]
    assert (out / "chelsea.mask.png").read_bytes() == b"old"


def test_models_without_names_and_with_many_classes(tmp_path):
    CRT("vit_tiny_patch16_224", num_classes=300, **TINY).save_pretrained(tmp_path / "model")
    model = f"local-dir:{tmp_path / 'model'}"
    shutil.copy(PHOTO, tmp_path / "a[red].jpg")
    done = run("cam", tmp_path / "a[red].jpg", "--labels", "280,3", "--out", tmp_path / "out", "--model", model)
    assert done.exit_code == 0, done.output
    assert "a[red].jpg: 3, 280" in done.output
    assert set(np.unique(load_mask(tmp_path / "out/a_red_.mask.png"))) <= {0, 4, 281}


def test_version():
    assert run("--version").output == f"crt-wsss {crt.__version__}\n"


def test_models():
    done = run("models")
    assert done.exit_code == 0
    assert all(name in done.output for name in ("crt_vit_t16", "crt_vit_s16", "crt_vit_b16", "voc9k"))
    assert "crt_vit_b16" not in run("models", "--pretrained").output
    assert "crt_vit_s16" not in run("models", "t16").output


def test_eval_cam(model, voc, tmp_path):
    measure = ["eval", "cam", "--voc", voc, "--list", "train", "--model", model, "--scales", "1"]
    done = run(*measure, "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert (record["list"], record["photos"], record["scales"]) == ("train", 2, [1.0])
    assert record["miou"] == max(record["curve"].values())
    assert f"{100 * record['miou']:.2f}" in done.output
    at = run(*measure, "--thresholds", "0.3")
    assert f"{100 * record['curve']['0.300']:.2f}" in at.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--list", "val"], "Lists in that folder: train"),
        (["--thresholds", "1:0"], "FIRST:LAST:STEP"),
        (["--thresholds", "0:1:0"], "FIRST:LAST:STEP"),
        (["--json", "/nowhere/r.json"], "/nowhere"),
    ],
)
def test_eval_cam_bad_input(model, voc, arguments, message):
    done = run("eval", "cam", "--voc", voc, "--model", model, "--list", "train", "--scales", "0.5", *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_eval_cam_names_the_mask_that_does_not_fit(model, voc):
    save_mask(np.zeros((3, 3), int), voc / "SegmentationClassAug/b.png")
    done = run("eval", "cam", "--voc", voc, "--model", model, "--list", "train", "--scales", "0.5")
    assert done.exit_code == 2
    assert "b.png" in done.output
    (voc / "JPEGImages/a.jpg").unlink()
    done = run("eval", "cam", "--voc", voc, "--model", model, "--list", "train")
    assert done.exit_code == 2
    assert "a.jpg" in done.output


def test_help_does_not_load_torch():
    """`crt --help` answers at once."""
    code = "import sys; import crt.cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
