"""What the commands do with a terminal, with interrupts, with their own inputs and with memory that runs out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import crt
from crt.cli import app, screen
from crt.cli.common import class_list, find_device
from crt.masks import save_mask

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "chelsea.jpg"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def small(tmp_path):
    """A small image, quickly seen."""
    file = tmp_path / "k.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file)
    return file


@pytest.mark.parametrize("kind", ["image", "broken", "label", "usage", "model", "device", "option"])
def test_escape_codes_do_not_reach_the_terminal(model, small, tmp_path, kind):
    evil = "e\x1b]0;owned\x07\x1b[31m\u202e"
    file = small if kind != "image" else shutil.copy(small, tmp_path / f"{evil}.png")
    if kind == "broken":
        file = tmp_path / f"{evil}.png"
        file.write_bytes(b"no image")
    arguments = {
        "label": ["--labels", evil],
        "usage": [f"--{evil}"],
        "model": ["--model", evil],
        "device": ["--device", evil],
        "option": ["--scales", evil],
    }.get(kind, [])
    arguments = ["cam", file, "--out", tmp_path / "out", "--scales", "0.5", "--model", model, *arguments]
    done = run(*arguments)
    assert done.exit_code == (0 if kind == "image" else 2)
    assert not {"\x1b", "\x07", "\u202e"} & set(done.output)
    assert "owned" in done.output and len(done.output) < 2000


def test_log_records_and_warnings_are_made_safe(model, small, tmp_path):
    code = (
        "import logging, warnings, typer; from crt.cli.screen import start_logging; start_logging(False)\n"
        "logging.getLogger('crt').warning('[red]a\\x1b[31m'); warnings.warn('b\\x1b[31m')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[red]a\\x1b[31m" in done.stderr and "b\\x1b[31m" in done.stderr and "\x1b" not in done.stderr


@pytest.mark.parametrize("link", ["same", "hard", "symbolic"])
def test_an_input_is_not_overwritten(model, small, tmp_path, link):
    out = tmp_path if link == "same" else tmp_path / "out"
    out.mkdir(exist_ok=True)
    other = tmp_path / "k.mask.png" if link == "same" else tmp_path / "other.png"
    Image.open(small).rotate(90).save(other)
    if link != "same":
        (os.link if link == "hard" else os.symlink)(other, out / "k.mask.png")
    before = other.read_bytes(), small.read_bytes()
    done = run("cam", small, other, "--out", out, "--model", model, "--scales", "0.5")
    assert done.exit_code == 2
    assert "would be overwritten" in done.output
    assert (other.read_bytes(), small.read_bytes()) == before
    assert not list(tmp_path.rglob("*.safetensors")) or not (out / "k.cam.safetensors").exists()


def test_images_of_one_stem_keep_their_suffix(model, small, tmp_path):
    Image.open(small).save(tmp_path / "k.jpg")
    done = run("cam", small, tmp_path / "k.jpg", "--out", tmp_path / "out", "--model", model, "--scales", "0.5")
    assert done.exit_code == 0, done.output
    assert {file.name for file in (tmp_path / "out").glob("*.mask.png")} == {"k_png.mask.png", "k_jpg.mask.png"}


def test_images_of_one_name_get_a_number(model, small, tmp_path):
    files = [small]
    for folder, name in (("x", "k.png"), ("y", "K.PNG"), ("z", "k.mask.png")):
        (tmp_path / folder).mkdir()
        files.append(Path(shutil.copy(small, tmp_path / folder / name)))
    done = run("cam", *files, small, "--out", tmp_path / "out", "--model", model, "--scales", "0.5")
    assert done.exit_code == 0, done.output
    stems = {file.name.removesuffix(".cam.safetensors") for file in (tmp_path / "out").glob("*.safetensors")}
    assert stems == {"k_png", "k_png-2", "K_PNG-3", "k.mask"}
    assert len(list((tmp_path / "out").iterdir())) == 12


def test_a_result_does_not_take_the_name_of_another(model, small, tmp_path):
    other = shutil.copy(small, tmp_path / "k.mask.png")
    done = run("cam", small, other, "--out", tmp_path / "out", "--model", model, "--scales", "0.5")
    assert done.exit_code == 0, done.output
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {
        f"{name}{end}" for name in ("k", "k.mask-2") for end in (".png", ".mask.png", ".cam.safetensors")
    }


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError(), KeyError()]
)
def test_one_image_does_not_end_the_job(model, small, tmp_path, monkeypatch, error):
    plain = crt.CAMExtractor.__call__

    def call(self, images, *rest, **options):
        if images.shape[-1] == 77:
            raise error
        return plain(self, images, *rest, **options)

    monkeypatch.setattr(crt.CAMExtractor, "__call__", call)
    huge = tmp_path / "huge.png"
    Image.open(small).resize((77, 60)).save(huge)
    done = run("cam", huge, small, "--out", tmp_path / "out", "--model", model, "--scales", "0.5")
    assert done.exit_code == 2
    assert "huge.png" in done.output and "1 of 2 images failed" in done.output
    assert (tmp_path / "out/k.mask.png").exists() and not (tmp_path / "out/huge.mask.png").exists()


def test_an_interrupt_says_how_to_go_on(model, small, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(crt.CAMExtractor, "__call__", stop)
    done = run("cam", small, "--out", tmp_path / "out", "--model", model)
    assert done.exit_code == 130
    assert "run the same command again" in done.output and len(done.output.strip().splitlines()) == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_the_terminal_cannot_show_lose_no_job(model, small, tmp_path, encoding):
    file = shutil.copy(small, tmp_path / "\u00e9t\u00e9 \u732b.png")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "crt.cli", "cam", str(file), "--out", str(tmp_path / "out"), "--model", model]
    done = subprocess.run([*command, "--scales", "0.5"], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/\u00e9t\u00e9 \u732b.mask.png").exists()


def test_auto_takes_what_there_is():
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert find_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu7", "cuda:99", "mps:3", "meta", "", "x" * 5000])
def test_a_device_that_is_not_there_is_one_short_line(model, small, tmp_path, name):
    done = run("cam", small, "--out", tmp_path / "out", "--model", model, "--device", name)
    assert done.exit_code == 2
    assert len(done.output) < 2000 and "use auto or one of" in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_class_names_from_text_or_file(tmp_path):
    assert class_list(None) is None
    assert class_list("ripe, not ripe") == ["ripe", "not ripe"]
    (tmp_path / "names.txt").write_text("ripe\nnot ripe\n\n")
    assert class_list(str(tmp_path / "names.txt")) == ["ripe", "not ripe"]
    for text in (" , ", "a,a", "missing/names.txt"):
        with pytest.raises(ValueError, match="--classes"):
            class_list(text)


@pytest.fixture
def fruit(tmp_path):
    """Two images of two classes of our own, with ground truth and masks."""
    random = np.random.default_rng(0)
    for folder in ("images", "truth", "masks"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / f"images/{name}.png")
        truth = np.zeros((20, 30), np.uint8)
        truth[:, 10:20], truth[:, 20:] = 1, 2
        save_mask(truth, tmp_path / f"truth/{name}.png")
        save_mask(np.where(truth == 2, 0, truth), tmp_path / f"masks/{name}.png")
    (tmp_path / "labels.csv").write_text("file,labels\na.png,ripe;unripe\nb.png,ripe;unripe\n")
    return tmp_path


@pytest.mark.parametrize("images", [True, False])
def test_masks_of_any_classes_are_measured(fruit, images):
    given = ["--images", fruit / "images", "--worst", fruit / "w.png"] if images else []
    measure = ["eval", "masks", "--truth", fruit / "truth", "--masks", fruit / "masks", "--json", fruit / "r.json"]
    done = run(*measure, "--classes", "ripe,unripe", *given)
    assert done.exit_code == 0, done.output
    record = json.loads((fruit / "r.json").read_text())
    assert record["photos"] == 2 and list(record["classes"]) == ["background", "ripe", "unripe"]
    assert [round(row["iou"], 6) for row in record["classes"].values()] == [0.5, 1.0, 0.0]
    assert (fruit / "w.png").exists() == images


def test_maps_of_any_classes_are_measured(fruit):
    from crt.models import CRT

    from .conftest import TINY

    network = CRT("vit_tiny_patch16_224", num_classes=2, class_names=["ripe", "unripe"], **TINY)
    network.save_pretrained(fruit / "model")
    measure = [
        "eval",
        "cam",
        "--images",
        fruit / "images",
        "--labels",
        fruit / "labels.csv",
        "--truth",
        fruit / "truth",
    ]
    done = run(*measure, "--model", f"local-dir:{fruit / 'model'}", "--scales", "1")
    assert done.exit_code == 0, done.output
    assert "unripe" in done.output and "on images (2 images" in done.output
    done = run(*measure[:-2], "--model", f"local-dir:{fruit / 'model'}")
    assert done.exit_code == 2 and "--truth" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--truth", "{f}/truth"], "--classes"),
        (["--truth", "{f}/nowhere", "--classes", "a"], "nowhere"),
        (["--voc", "{f}"], "--list"),
        (["--images", "{f}/images"], "--truth"),
        ([], "--images"),
        (["--truth", "{f}/truth", "--classes", "a,b", "--worst", "{f}/w.png"], "--worst shows images"),
    ],
)
def test_what_is_missing_is_named(fruit, arguments, message):
    done = run("eval", "masks", "--masks", fruit / "masks", *(part.format(f=fruit) for part in arguments))
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


@pytest.mark.parametrize("verb", [[], ["cam"], ["pseudo"], ["models"], ["eval", "cam"], ["eval", "masks"]])
def test_help_is_complete(verb):
    done = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "120"})
    assert done.exit_code == 0
    assert "--root" not in done.output and "crt-wsss'" not in done.output


def test_a_log_gets_a_line_a_minute(monkeypatch, capsys):
    times = iter(range(0, 10_000, 25))
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(times))
    assert list(screen.progress_lines("abcdef", 4, 10, lambda: "loss 0.5")) == [*"abcdef"]
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["7 of 10, loss 0.5, about 2 min left", "10 of 10, loss 0.5"]
