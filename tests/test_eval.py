"""`crt eval` from models and from folders: what it says and writes, and how it ends on bad input."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from crt import create_model
from crt.cam import CAMExtractor
from crt.cli.report import numbers
from crt.data import VOC_CLASSES, ImageDataset
from crt.evaluate import measure_seeds
from crt.evaluate.report import level, worst
from crt.evaluate.seeds import load_maps, seeds_of_model
from crt.masks import load_mask, save_mask
from crt.models import CRT
from crt.refine import PAMR

from .conftest import TINY
from .test_cli import run


@pytest.fixture
def maps(voc, tmp_path):
    """Saved maps of the two photos: a perfect cat, and a cat everywhere with a dog that is nowhere."""
    folder = tmp_path / "maps"
    folder.mkdir()
    cat = torch.from_numpy(load_mask(voc / "SegmentationClassAug/a.png") == 8).float()[None]
    save_maps(folder / "a.cam.safetensors", cat, [0], ["cat"])
    save_maps(folder / "b.safetensors", torch.stack([torch.ones(60, 80), torch.zeros(60, 80)]), [0, 1], ["cat", "dog"])
    return folder


def save_maps(path, values, labels, names):
    tensors = {"maps": values, "labels": torch.tensor(labels)}
    save_file(tensors, path, None if names is None else {"names": json.dumps(names), "seed_threshold": "0.15"})


def is_png(path):
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and min(image.size) > 100


def test_cam_from_maps(voc, maps, tmp_path):
    files = {name: tmp_path / name for name in ("r.json", "p.png", "w.png")}
    outputs = ["--json", files["r.json"], "--plot", files["p.png"], "--worst", files["w.png"]]
    done = run("eval", "cam", "--voc", voc, "--list", "train", "--maps", maps, "--thresholds", "0.1:0.5:0.1", *outputs)
    assert done.exit_code == 0, done.output
    record = json.loads(files["r.json"].read_text())
    truth = {name: load_mask(voc / f"SegmentationClassAug/{name}.png") for name in "ab"}
    cat = sum((truth[name] == 8).sum() for name in "ab") / (
        sum((truth[n] == 8).sum() for n in "ab") + (truth["b"] == 0).sum()
    )
    assert record["classes"]["cat"]["iou"] == pytest.approx(cat, abs=1e-6)
    assert sum(record["classes"]["cat"].values()) == pytest.approx(1, abs=1e-5)
    assert record["classes"]["sheep"] == {"iou": None, "fp": None, "fn": None}
    assert (record["maps"], record["list"], record["resolution"]) == ("maps", "train", "masks'")
    assert [entry["name"] for entry in record["worst"]] == ["b", "a"]
    assert record["worst"][1]["miou"] == 1
    text = " ".join(done.output.split())
    assert (
        "masks' resolution" in text and "(best on this list)" in text and "on train (2 images, the labels saved" in text
    )
    assert is_png(files["p.png"]) and is_png(files["w.png"])


def test_cam_from_a_model_names_its_worst(model, voc, tmp_path):
    measure = ["eval", "cam", "--voc", voc, "--list", "train", "--model", model, "--scales", "1"]
    done = run(*measure, "--thresholds", "0.3", "--json", tmp_path / "r.json", "--worst", tmp_path / "w.png")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert list(record["miou_by_rule"]) == ["fixed threshold", "best on this list", "oracle per image"]
    assert "fixed threshold (0.150)" in " ".join(done.output.split()) and record["fixed_threshold"] == 0.15
    assert record["threshold_rule"] == "given" and record["labels"] == "their own labels"
    assert {entry["name"] for entry in record["worst"]} == {"a", "b"}
    assert is_png(tmp_path / "w.png")


def test_refined_maps_of_a_model_are_measured(model, voc, tmp_path):
    photos, network = ImageDataset.from_voc(voc, "train", masks=True), create_model(model, pretrained=True)
    results = [CAMExtractor(network)(Image.open(photo.image), [photo.labels])[0] for photo in photos]
    better = ((result.refined(PAMR()).maps, result.labels) for result in results)
    expected = measure_seeds(better, photos, [0.3]).curve.best()[1]
    assert expected != pytest.approx(
        measure_seeds(seeds_of_model(CAMExtractor(network), photos), photos, [0.3]).curve.best()[1]
    )

    measure = ["eval", "cam", "--voc", voc, "--list", "train", "--model", model, "--preset", "paper", "--scales", "1"]
    done = run(*measure, "--thresholds", "0.3", "--refine", "pamr", "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert (record["measure"], record["refiner"]) == ("refined mIoU", "pamr")
    assert record["miou"] == pytest.approx(expected)
    assert "refined by pamr on train" in " ".join(done.output.split())


def test_saved_results_measure_as_the_model_does(model, voc, tmp_path):
    for name, labels in (("a", "cat"), ("b", "cat,dog")):
        photo = voc / f"JPEGImages/{name}.jpg"
        done = run("cam", photo, "--labels", labels, "--model", model, "--scales", "1", "--out", tmp_path / "out")
        assert done.exit_code == 0, done.output
    measure = ["eval", "cam", "--voc", voc, "--list", "train", "--json"]
    run(*measure, tmp_path / "model.json", "--model", model, "--scales", "1")
    run(*measure, tmp_path / "maps.json", "--maps", tmp_path / "out")
    masks = ["--masks", tmp_path / "out", "--json", tmp_path / "masks.json"]
    run("eval", "masks", "--voc", voc, "--list", "train", *masks)
    of_model, of_maps, of_masks = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("model", "maps", "masks"))
    assert of_model["curve"] == pytest.approx(of_maps["curve"])
    at = run(*measure, tmp_path / "at.json", "--maps", tmp_path / "out", "--thresholds", "0.15")
    assert at.exit_code == 0, at.output
    assert json.loads((tmp_path / "at.json").read_text())["miou"] == pytest.approx(of_masks["miou"])


def test_masks(voc, tmp_path):
    (tmp_path / "masks").mkdir()
    for name in "ab":
        truth = load_mask(voc / f"SegmentationClassAug/{name}.png")
        save_mask(np.where(truth == 255, 3, truth), tmp_path / f"masks/{name}.png")
    measure = ["eval", "masks", "--voc", voc, "--list", "train", "--masks", tmp_path / "masks"]
    done = run(*measure, "--json", tmp_path / "r.json", "--worst", tmp_path / "w.png")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert (record["miou"], record["boundary_miou"], record["threshold_rule"]) == (1, 1, "none")
    assert "mIoU 100.00, boundary IoU 100.00" in done.output
    assert is_png(tmp_path / "w.png")
    save_mask(np.full((60, 80), 30), tmp_path / "masks/b.png")
    done = run(*measure)
    assert done.exit_code == 2
    assert "preds has the values 30" in done.output and "b.png" in done.output
    (tmp_path / "masks/b.png").unlink()
    assert "no mask of 'b'" in run(*measure).output


@pytest.fixture
def birds(tmp_path):
    names = ["dog", "bird", "cat"]
    CRT("vit_tiny_patch16_224", num_classes=3, class_names=names, **TINY).save_pretrained(tmp_path / "birds")
    return f"local-dir:{tmp_path / 'birds'}"


def test_boxes(birds, cub, tmp_path):
    (cub / "classes.txt").write_text("1 001.cat\n2 002.dog\n3 003.bird\n")  # no photo shows a bird
    files = {name: tmp_path / name for name in ("r.json", "p.png", "w.png")}
    outputs = ["--json", files["r.json"], "--plot", files["p.png"], "--worst", files["w.png"]]
    measure = ["eval", "boxes", "--cub", cub, "--model", birds, "--square", "64", "--threshold", "0.2"]
    done = run(*measure, *outputs)
    assert done.exit_code == 0, done.output
    record = json.loads(files["r.json"].read_text())
    assert (record["list"], record["photos"], record["resolution"]) == ("test", 3, "photos seen at 64 x 64")
    assert record["top5_loc"] == record["gt_known"] >= record["top1_loc"]
    assert record["max_box_acc"]["0.5"] == max(row[1] for row in record["curve"].values()) >= record["gt_known"]
    assert list(record["classes"]) == ["cat", "dog", "bird"]
    assert set(record["classes"]["bird"].values()) == {None}
    assert sorted(entry["name"] for entry in record["worst"]) == ["001.cat/2", "002.dog/4", "002.dog/6"]
    text = " ".join(done.output.split())
    assert f"GT-known {100 * record['gt_known']:.2f}" in text and "threshold 0.200 (given)" in text
    assert is_png(files["p.png"]) and is_png(files["w.png"])
    refined = run(*measure, "--refine", "pamr", "--json", files["r.json"])
    assert refined.exit_code == 0, refined.output
    other = json.loads(files["r.json"].read_text())
    assert other["refiner"] == "pamr" and other["worst"] != record["worst"]
    assert "refined by pamr on test" in " ".join(refined.output.split())
    done = run("eval", "boxes", "--cub", cub, "--model", birds, "--list", "train")
    assert done.exit_code == 0, done.output
    assert "(the model's)" in done.output and "photos' own resolution" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["boxes", "--cub", "{cub}", "--model", "{birds}", "--list", "val"], "'train' and 'test'"),
        (["boxes", "--cub", "{voc}", "--model", "{birds}"], "classes.txt does not exist"),
        (["boxes", "--cub", "{cub}", "--model", "{model}", "--thresholds", "1:0"], "FIRST:LAST:STEP"),
        (["boxes", "--cub", "{cub}", "--model", "{birds}", "--worst", "/nowhere/w.png"], "--worst /nowhere/w.png"),
        (["boxes", "--cub", "{cub}", "--model", "{birds}", "--thresholds", "0:2:0.5"], "0 to 1"),
        (["boxes", "--cub", "{cub}", "--model", "{birds}", "--json", "{cub}"], "this is a folder"),
        (["masks", "--voc", "{voc}", "--list", "train", "--masks", "/nowhere"], "no mask of 'a'"),
        (["cam", "--voc", "{voc}", "--list", "train", "--maps", "/nowhere"], "no maps of 'a'"),
        (["cam", "--voc", "{voc}", "--list", "train", "--maps", "/n", "--model", "m"], "either --model or --maps"),
        (["cam", "--voc", "{voc}", "--list", "train", "--maps", "/n", "--refine", "pamr"], "--refine is for"),
        (["cam", "--voc", "{voc}", "--list", "train", "--model", "{model}", "--refine", "pram"], "mean 'pamr'"),
        (["cam", "--voc", "{voc}", "--list", "train", "--plot", "/nowhere/p.png"], "--plot /nowhere/p.png"),
    ],
)
def test_bad_input_ends_with_2(birds, model, cub, voc, arguments, message):
    done = run("eval", *(part.format(birds=birds, model=model, cub=cub, voc=voc) for part in arguments))
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_without_matplotlib_the_extra_is_named(voc, maps, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    measure = ["eval", "cam", "--voc", voc, "--list", "train", "--maps", maps]
    done = run(*measure, "--plot", tmp_path / "p.png")
    assert done.exit_code == 2
    assert "pip install 'crt-wsss[eval]'" in " ".join(done.output.split())
    assert run(*measure).exit_code == 0


def test_the_worst_come_first_and_photos_without_a_score_not():
    scores = torch.tensor([0.5, float("nan"), 0.1, *[0.9] * 30])
    found = worst([str(i) for i in range(33)], scores)
    assert [place for place, _, _ in found[:3]] == [2, 0, 3]
    assert len(found) == 20


@pytest.mark.parametrize(
    ("values", "labels", "names", "message"),
    [
        (torch.zeros(1, 2, 2), [0], ["kat"], "kat"),
        (torch.zeros(1, 2, 2), [20], None, "20"),
        (torch.zeros(2, 2, 2), [0], ["cat"], "1 labels"),
        (torch.full((1, 2, 2), 3.0), [0], ["cat"], "from 3 to 3"),
        (torch.full((1, 2, 2), float("nan")), [0], ["cat"], "NaN"),
    ],
)
def test_maps_that_do_not_fit_are_named(tmp_path, values, labels, names, message):
    save_maps(tmp_path / "a.safetensors", values, labels, names)
    with pytest.raises(ValueError, match=f"a.safetensors.*{message}"):
        load_maps(tmp_path / "a.safetensors", VOC_CLASSES)


def test_maps_of_models_with_other_orders_and_without_names(tmp_path):
    save_maps(tmp_path / "a.safetensors", torch.zeros(2, 2, 2), [0, 1], ["dog", "aeroplane"])
    assert load_maps(tmp_path / "a.safetensors", VOC_CLASSES)[1] == [11, 0]
    save_maps(tmp_path / "a.safetensors", torch.zeros(2, 2, 2), [3, 5], ["3", "5"])
    assert load_maps(tmp_path / "a.safetensors", VOC_CLASSES)[1] == [3, 5]
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="CAMResult.save"):
        load_maps(tmp_path / "a.safetensors", VOC_CLASSES)


def test_thresholds_end_at_the_last():
    assert numbers("0.1:0.48:0.1", "", "") == [0.1, 0.2, 0.3, 0.4]
    assert numbers("0:0.99:0.01", "", "")[-1] == 0.99
    assert [level(t) for t in numbers("0.3:0.301:0.0005", "", "")] == ["0.300", "0.300500", "0.301"]


def test_broken_files_are_named_and_a_late_failure_keeps_the_record(voc, maps, model, tmp_path):
    measure = ["eval", "cam", "--voc", voc, "--list", "train", "--thresholds", "0.3"]
    photo, mask = voc / "JPEGImages/a.jpg", next((voc / "SegmentationClassAug").glob("a.png"))
    photo.write_bytes(photo.read_bytes()[:300])
    done = run(*measure, "--model", model)
    assert done.exit_code == 2 and "a.jpg cannot be read as a photo" in " ".join(done.output.split())
    done = run(*measure, "--maps", maps, "--json", tmp_path / "r.json", "--worst", tmp_path / "w.png")
    assert done.exit_code == 2 and json.loads((tmp_path / "r.json").read_text())["photos"]
    mask.write_bytes(mask.read_bytes()[:60])
    done = run(*measure, "--maps", maps)
    assert done.exit_code == 2 and "a.png cannot be read as a mask" in " ".join(done.output.split())
    mask.unlink()
    done = run(*measure, "--maps", maps)
    assert done.exit_code == 2 and "have no true mask" in " ".join(done.output.split())
