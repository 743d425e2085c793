"""``crt fit``: from labels to a model, resumed after a kill; its plan and its report."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate", reason="needs the extra `train`")

from typer.testing import CliRunner

import crt
from crt.cli import app
from crt.data import ImageDataset
from crt.masks import save_mask
from crt.models import CRT
from crt.pipeline import FitRecipe, fit, plan_fit
from crt.pipeline import recipe as recipe_module
from crt.pipeline import stages as stages_module
from crt.train.recipe import FrozenRecipe, SegmentRecipe

from .conftest import TINY

NAMES = ["<b>red</b>", 'blue "&" co']
SHORT = FrozenRecipe(steps=20, head_steps=20, round_steps=20, token_steps=20, batch_patches=256)


@pytest.fixture
def start(tmp_path):
    """A small random CRT of other classes."""
    folder = tmp_path / "start"
    CRT("vit_tiny_patch16_224", num_classes=2, num_passes=0, class_names=["a", "b"], **TINY).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    """Six photos: two of a red square, two of a blue one, two of noise (negatives)."""
    random, folder = np.random.default_rng(0), tmp_path / "photos"
    (folder / "masks").mkdir(parents=True)
    rows = []
    for i in range(6):
        pixels, mask = random.integers(0, 90, (64, 80, 3), dtype=np.uint8), np.zeros((64, 80), np.uint8)
        if i < 4:
            pixels[16:48, 16:48, 0 if i < 2 else 2] = 250
            mask[16:48, 16:48] = 1 + i // 2
        Image.fromarray(pixels).save(folder / f"<i>{i}.png")
        save_mask(mask, folder / "masks" / f"<i>{i}.png")
        rows.append(f"<i>{i}.png,{['red', 'blue'][i // 2] if i < 4 else ''}")
    (folder / "labels.csv").write_text("\n".join(["file,labels", *rows]) + "\n")
    data = ImageDataset.from_csv(folder, folder / "labels.csv", class_names=["red", "blue"])
    return ImageDataset(data.samples, NAMES)


@pytest.fixture
def recipe(start, monkeypatch):
    monkeypatch.setattr(stages_module, "HEAD_STEPS", 20)
    return FitRecipe(start=start, frozen=SHORT, refiner="none")


class Killed(Exception):
    pass


def test_labels_become_a_model_and_a_page(photos, recipe, tmp_path):
    truth = photos[0].image.parent / "masks"
    found = fit(photos, tmp_path / "run", recipe, truth=truth)
    model = crt.create_model(f"local-dir:{found.folder}", pretrained=True)
    assert model.class_names == NAMES
    mask = model.segment(photos[0].image)
    assert mask.shape == (1, 64, 80) and set(mask.unique().tolist()) <= {0, 1, 2}
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert list(stages) == ["cam", "masks", "segment"] and all(stage["finished"] for stage in stages.values())
    assert all(stage["facts"]["truth"]["photos"] == 6 for stage in stages.values())
    assert stages["segment"]["facts"]["after"] < stages["segment"]["facts"]["before"]
    assert found.report.read_text().count("<article>") == 6


def test_a_killed_run_resumes_where_it_was(photos, recipe, tmp_path, monkeypatch):
    """Killed in each stage; what is finished is not done again, and the result is that of a run in one go."""
    whole = fit(photos, tmp_path / "whole", recipe)
    done = []
    for name in ("train_frozen", "make_pseudo_masks", "train_head"):
        real = getattr(stages_module, name)

        def killed(*args, name=name, **kwargs):
            done.append(name)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(stages_module, name, killed)
            with pytest.raises(Killed):
                fit(photos, tmp_path / "run", recipe)

        def counted(*args, real=real, name=name, **kwargs):
            done.append(f"again {name}")
            return real(*args, **kwargs)

        monkeypatch.setattr(stages_module, name, counted)
    again = fit(photos, tmp_path / "run", recipe)
    stages = ("train_frozen", "make_pseudo_masks", "train_head")
    assert done == [call for name in stages for call in (name, f"again {name}")]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    fit(photos, tmp_path / "run", recipe)
    assert len(done) == 6


def test_other_settings_need_another_folder(photos, recipe, tmp_path):
    fit(photos, tmp_path / "run", recipe)
    with pytest.raises(ValueError, match="stage 'masks' had other settings .*refiner: none then, pamr now"):
        fit(photos, tmp_path / "run", FitRecipe(start=recipe.start, frozen=SHORT, refiner="pamr"))
    with pytest.raises(ValueError, match="stage 'cam' had other settings .*data"):
        fit(ImageDataset(photos.samples[:-1], NAMES), tmp_path / "run", recipe)


def test_a_whole_network_as_the_last_stage(photos, recipe, tmp_path):
    net = SegmentRecipe(epochs=2, batch_size=2, crop=64)
    found = fit(photos, tmp_path / "run", FitRecipe(recipe.start, SHORT, "none", segment="net", segmentation=net))
    assert (tmp_path / "run" / "segment" / "log.jsonl").exists()
    assert crt.create_model(f"local-dir:{found.folder}", pretrained=True).class_names == NAMES


def test_a_boundary_network_makes_the_masks_again(photos, recipe, tmp_path, monkeypatch):
    def trained(net, masked, out, settings, **options):
        assert all(sample.mask.parent == tmp_path / "run" / "masks" for sample in masked)
        net.save_pretrained(out / "model")

    monkeypatch.setattr(recipe_module, "BOUNDARY_LEAST", 6)
    monkeypatch.setattr(stages_module, "train_refine", trained)
    fit(photos, tmp_path / "run", FitRecipe(recipe.start, SHORT, "none", boundary=True))
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert list(stages) == ["cam", "masks", "boundary", "masks-boundary", "segment"]
    assert len(list((tmp_path / "run" / "masks-boundary").glob("*.png"))) == 6


def test_labels_that_teach_nothing_are_refused_before_any_work(photos, recipe, tmp_path):
    with pytest.raises(ValueError, match="all 2 photos show"):
        fit(ImageDataset(photos.samples[:2], NAMES[:1]), tmp_path / "run", recipe)
    with pytest.raises(ValueError, match="boundary network needs 500 photos"):
        fit(photos, tmp_path / "run", FitRecipe(recipe.start, SHORT, boundary=True))
    with pytest.raises(ValueError, match="there are photos in"):
        fit(photos, photos[0].image.parent, recipe)
    assert not (tmp_path / "run").exists()


def test_unreadable_photos_are_left_out_and_told(photos, recipe, tmp_path):
    broken = photos[0].image.with_name("broken <img>.png")
    broken.write_bytes(b"not a picture")
    data = ImageDataset([*photos.samples, photos[0]._replace(image=broken, name="broken")], NAMES)
    found = fit(data, tmp_path / "run", recipe)
    assert [file for file, _ in found.left_out] == [str(broken)]
    assert "broken &lt;img&gt;.png" in found.report.read_text()


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]


def test_the_page_escapes_names_and_needs_nothing_else(photos, recipe, tmp_path):
    text = fit(photos, tmp_path / "run", recipe, source="--images '<script>x'").report.read_text()
    page = _Page()
    page.feed(text)
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links) and page.links
    assert not page.tags & {"script", "b>", "link", "iframe", "object", "form"}
    assert "&lt;b&gt;red&lt;/b&gt;" in text and "<b>red" not in text and "<i>0" not in text
    assert not re.search(r"https?://|@import|url\(", text)


def test_a_plan_writes_nothing(photos, recipe, tmp_path, start):
    stages = plan_fit(photos, recipe)
    assert [stage.name for stage in stages] == ["cam", "masks", "segment", "report"]
    assert all(stage.seconds > 0 for stage in stages)
    folder = photos[0].image.parent
    given = ["fit", "--images", folder, "--labels", folder / "labels.csv", "--out", tmp_path / "run"]
    result = CliRunner().invoke(app, [*map(str, given), "--start", str(start), "--refine", "none", "--dry-run"])
    assert result.exit_code == 0 and "nothing was written" in result.stdout
    assert not (tmp_path / "run").exists()


def test_a_run_takes_one_process_at_a_time(photos, recipe, tmp_path):
    (tmp_path / "run").mkdir()
    code = "import sys, crt._files as f\nwith f.lock_folder(sys.argv[1]):\n print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError, match=f"process {holder.pid}"):
            fit(photos, tmp_path / "run", recipe)
    finally:
        holder.communicate()
