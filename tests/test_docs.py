"""The numbers in the documentation are those of the records."""

import importlib
import json
import sys
from pathlib import Path

import pytest

import crt

ROOT = Path(__file__).parents[1]
MACHINE = {"torch": "2", "machine": {"processor": "abacus", "cores": 2, "threads": 1}}


@pytest.fixture
def results(monkeypatch):
    """benchmarks/results.py, which is a script beside its helpers."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("results")
    for name in ("results", "_speed", "_tables"):
        sys.modules.pop(name, None)


@pytest.fixture
def invented(results, tmp_path, monkeypatch):
    """results.py over a folder of records of our own, and a function that writes one."""
    monkeypatch.setattr(sys.modules["_tables"], "RECORDS", tmp_path)
    return results, lambda name, **fields: (tmp_path / name).write_text(json.dumps({**fields, **MACHINE}))


def test_tables_are_made_from_the_records(results):
    assert len(results.seeds().splitlines()) > 2
    for page in [*results.PAGES, results.SPEED]:
        text = page.read_text()
        assert results.written(text) == text, f"{page.name}: run python benchmarks/results.py"


def test_every_table_has_its_place(results):
    text = "".join(page.read_text() for page in (ROOT / "docs" / "results.md", results.SPEED))
    for name in results.TABLES:
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- /{name} -->") == 1


def test_what_was_not_measured_is_said(invented):
    results, _ = invented
    for table in (results.ablation, results.refiners, results.errors, results.random_walk, results.threshold_curve):
        assert table() == results.MISSING


def refined(refiner, split, miou, **changes):
    place = {"model": "m", "scales": [0.5, 1.0], "flip": True, "photos": 9, "threshold_rule": "best on train"}
    cost = {"seconds_median": 1.5, "seconds_mean": 2.0, "peak_memory_mb": 80.4, "peak_memory_photo": [375, 500]}
    return {"refiner": refiner, "list": split, "miou": miou, "threshold": 0.3, **place, **cost, **changes}


def test_refiners_are_compared_with_the_seeds(invented):
    results, write = invented
    for refiner, miou in {"a+pamr": 0.68, "pamr": 0.65, "none": 0.6}.items():
        write(f"refined_{refiner}_train.json", **refined(refiner, "train", miou))
    write("refined_none_val_animals.json", **refined("none", "val_animals", 0.5))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in results.refiners().splitlines()[2:5]]
    assert rows == [
        ["seed", "60.0", "50.0", "0.30", "-", "-"],
        ["PAMR", "65.0 (+5.0)", "-", "0.30", "1.50 (2.00)", "80"],
        ["`a` + PAMR", "68.0 (+8.0)", "-", "0.30", "1.50 (2.00)", "80"],
    ]
    write("refined_crf_train.json", **refined("crf", "train", 0.7, scales=[1.0]))
    with pytest.raises(ValueError, match="differ in scales"):
        results.refiners()


def test_ablation_goes_from_simple_to_complete(invented):
    results, write = invented
    for passes, cnn, tiling in ((3, True, True), (0, False, False), (1, True, True)):
        miou = dict.fromkeys(results.LISTS, 0.1 * passes)
        row = {"passes": passes, "cnn": cnn, "coupling": 0.1 * cnn, "tiling": tiling, "miou": miou, "threshold": 0.2}
        write(f"ablation_{passes}.json", **row, map_val_animals=0.9)
    rows = results.ablation().splitlines()[2:]
    assert [row.split("|")[1:6] for row in rows] == [
        [" 0 ", " no ", " 0 ", " no ", " 0.0 "],
        [" 1 ", " yes ", " 0.1 ", " yes ", " 10.0 "],
        [" 3 ", " yes ", " 0.1 ", " yes ", " 30.0 "],
    ]


def test_errors_of_masks_the_worst_class_first(invented):
    results, write = invented
    classes = {"background": [0.9, 0.06, 0.04], "chair": [0.2, 0.3, 0.5]}
    groups = {"by_classes": {"1": [4, 0.7], "3": [2, 0.5]}, "by_size": {"0.5 to 1": [6, 0.6]}}
    what = {"model": "m", "refiner": "irn_lite0", "list": "train_allclass", "photos": 6, "threshold": 0.4}
    write("masks_irn_lite0_train_allclass.json", **what, iou_fp_fn=classes, **groups)
    rows = results.errors().splitlines()
    assert rows[4:6] == ["| chair | 20.0 | 30.0 | 50.0 |", "| background | 90.0 | 6.0 | 4.0 |"]
    assert rows[-2:] == [
        "| classes in the photo: 3 or more | 2 | 50.0 |",
        "| share that objects cover: 0.5 to 1 | 6 | 60.0 |",
    ]


def test_speed_tables(invented):
    results, write = invented
    both = {"exact": 0.5, "1e-6": 0.25}
    small = {"cells": [47, 63], "seconds": {"dense": 10, **both}, "times_faster": {"exact": 20, "1e-6": 40}}
    small |= {"relative_error": {"exact": 2e-6, "1e-6": 3e-6}, "dense_matrices_mb": 70.1, "peak_extra_mb": both}
    write("random_walk.json", walks=[small, {"cells": [250, 250], "seconds": both, "peak_extra_mb": both}])
    rows = results.random_walk().splitlines()[2:4]
    assert rows == [
        "| 47 x 63 | 188 x 252 | 10 (70.1 MB) | 0.5 (20 times) | 0.25 (40 times) | 2e-06, 3e-06 | 0.5, 0.25 |",
        "| 250 x 250 | 1000 x 1000 | - | 0.5 | 0.25 | - | 0.5, 0.25 |",
    ]
    medians = {"one_pass": 5.0, "each_threshold": 30.0}
    write("threshold_curve.json", photos=9, size=[375, 500], thresholds=20, medians=medians, ratio=1 / 6)
    assert results.threshold_curve().splitlines()[2] == "| 9 | 375 x 500 | 20 | 5 | 30 | 6.0 |"


def test_the_bundled_threshold_is_the_best_on_train(results):
    model = crt.create_model("crt_vit_t16", pretrained=True)
    assert f"{model.seed_threshold:.3f}" == results.chosen_threshold("crt_vit_t16.voc9k")


def test_the_card_of_the_birds_has_the_same_numbers(results):
    card = (ROOT / "crt" / "weights" / "crt_vit_t16.cub50" / "README.md").read_text()
    refined, plain = (results.records(f"wsol_bundled{name}.json")[0] for name in ("_pamr", ""))
    for name in ("top1_cls", "top5_cls", "top1_loc", "top5_loc", "gt_known", "max_box_acc", "max_box_acc_v2"):
        assert f"| {100 * refined[name]:.1f} | {100 * plain[name]:.1f} |" in card
    readme = " ".join((ROOT / "README.md").read_text().split())
    bundled = results.records("boxes_cub50_pamr.json")[0]
    shares = [f"{100 * bundled[name]:.1f}" for name in ("gt_known", "top1_loc", "top1_cls")]
    assert "localization\nand GT-known are {1} and {0} (".format(*shares) in card
    assert f"--threshold {refined['threshold']:.2f}" in card
    assert "GT-known {}, Top-1 localization {}, classification {}".format(*shares) in readme
    assert crt.create_model("crt_vit_t16.cub50", pretrained=True).seed_threshold == plain["threshold"]


def test_the_model_card_has_the_same_numbers(results):
    card = (ROOT / "crt" / "weights" / "crt_vit_t16.voc9k" / "README.md").read_text()
    for record in results.records():
        if record["scales"] != [0.5, 1.0, 1.5]:
            continue
        share = record["curve"][results.chosen_threshold(record["model"])]
        assert f"| {record['photos']} | {100 * share:.1f} |" in card
