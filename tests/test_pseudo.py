"""Pseudo masks: what is written, and that no photo, kill or disk spoils a job."""

import errno
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import crt
import crt.jobs.job
from crt.cam import CAMExtractor
from crt.cli import app
from crt.data import ImageDataset
from crt.masks import load_mask
from crt.pseudo import make_pseudo_masks
from crt.refine import PAMR

COUNT = 12


@pytest.fixture
def folder(tmp_path, tiny):
    """Photos with labels, and a model that knows them."""
    random = np.random.default_rng(0)
    rows = ["file,labels"]
    for i in range(COUNT):
        file = tmp_path / "photos" / f"set{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (70 + i, 90, 3), dtype=np.uint8)).save(file)
        rows.append(f"set{i % 2}/{i}.png,{'cat dog' if i % 3 else 'person'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    tiny.save_pretrained(tmp_path / "model")
    return tmp_path


def photos_of(folder, tiny):
    return ImageDataset.from_csv(folder / "photos", folder / "labels.csv", class_names=tiny.class_names)


def arguments(folder, out, *more):
    places = ["--images", folder / "photos", "--labels", folder / "labels.csv", "--out", out]
    fixed = ["pseudo", "--model", f"local-dir:{folder / 'model'}", "--scales", "1", "--threshold", "0.3,0.5"]
    return [str(part) for part in (*fixed, *places, *more)]


def masks_in(out):
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.png"))}


def test_masks_and_manifest(folder, tiny):
    photos = photos_of(folder, tiny)
    report = make_pseudo_masks(CAMExtractor(tiny), PAMR(), photos, folder / "out", threshold=(0.3, 0.5))
    assert (report.written, report.skipped, report.failed) == (COUNT, 0, [])
    lines = [json.loads(line) for line in (folder / "out" / "manifest.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [photo.name for photo in photos.samples]
    seen = set()
    for photo, line in zip(photos.samples, lines, strict=True):
        file = folder / "out" / f"{photo.name}.png"
        mask = load_mask(file)
        assert mask.shape == Image.open(photo.image).size[::-1]
        assert set(np.unique(mask)) <= {0, 255, *(i + 1 for i in photo.labels)}
        assert line["labels"] == photo.labels
        assert line["mask_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        seen |= set(np.unique(mask))
    assert {0, 255} < seen
    told = json.loads((folder / "out" / "settings.json").read_text())
    assert {line["settings"] for line in lines} == {told["fingerprint"]}
    assert told["settings"]["threshold"] == [0.3, 0.5] and told["settings"]["refiner"]["iterations"] == 10


def test_the_mask_is_the_refined_map_cut_at_the_thresholds(folder, tiny):
    photos = photos_of(folder, tiny)
    make_pseudo_masks(CAMExtractor(tiny), PAMR(), photos, folder / "out", threshold=(0.3, 0.5))
    make_pseudo_masks(CAMExtractor(tiny), PAMR(), photos, folder / "sure", threshold=0.4)
    photo = photos[1]
    (result,) = CAMExtractor(tiny)(Image.open(photo.image), [photo.labels])
    cam = PAMR()(result.pixels[None], result.maps[None])[0]
    cam = cam / (cam.amax(dim=(-2, -1), keepdim=True) + 1e-5)
    best, place = cam.max(dim=0)
    classes = torch.tensor(photo.labels)[place] + 1
    wanted = torch.where(best > 0.5, classes, torch.where(best < 0.3, 0, 255))
    assert (torch.from_numpy(load_mask(folder / "out" / f"{photo.name}.png")) == wanted).float().mean() > 0.999
    wanted = torch.where(best > 0.4, classes, 0)
    assert (torch.from_numpy(load_mask(folder / "sure" / f"{photo.name}.png")) == wanted).float().mean() > 0.999


def test_a_job_is_done_once(folder, tiny):
    job = (CAMExtractor(tiny), None, photos_of(folder, tiny), folder / "out")
    make_pseudo_masks(*job, threshold=0.4)
    before = masks_in(folder / "out")
    assert make_pseudo_masks(*job, threshold=0.4)[:2] == (0, COUNT)
    (folder / "out" / "set1" / "1.png").unlink()
    (folder / "out" / "set0" / "2.png").write_bytes(b"half")
    assert make_pseudo_masks(*job, threshold=0.4)[:2] == (2, COUNT - 2)
    assert masks_in(folder / "out") == before


def test_a_changed_photo_is_done_again(folder, tiny):
    photos = photos_of(folder, tiny)
    make_pseudo_masks(CAMExtractor(tiny), None, photos, folder / "out", threshold=0.4)
    Image.new("RGB", (64, 64), "red").save(photos[3].image)
    report = make_pseudo_masks(CAMExtractor(tiny), None, photos, folder / "out", threshold=0.4)
    assert report.written == 1
    assert load_mask(folder / "out" / f"{photos[3].name}.png").shape == (64, 64)


def test_masks_of_other_settings_are_not_mixed_in(folder, tiny):
    job = (CAMExtractor(tiny), None, photos_of(folder, tiny), folder / "out")
    make_pseudo_masks(*job, threshold=0.4)
    with pytest.raises(ValueError, match=r"threshold: \[0.4, 0.4\] then, \[0.5, 0.5\] now"):
        make_pseudo_masks(*job, threshold=0.5)


def test_processes_share_the_photos(folder, tiny):
    job = (CAMExtractor(tiny), None, photos_of(folder, tiny))
    reports = [make_pseudo_masks(*job, folder / "out", threshold=0.4, process=(i, 3)) for i in range(3)]
    assert [report.written for report in reports] == [4, 4, 4]
    make_pseudo_masks(*job, folder / "alone", threshold=0.4)
    assert masks_in(folder / "out") == masks_in(folder / "alone")


def test_a_full_disk_leaves_whole_files_and_the_job_goes_on(folder, tiny, monkeypatch):
    job = (CAMExtractor(tiny), None, photos_of(folder, tiny), folder / "out")
    real, calls = crt.jobs.job.save_mask, []

    def full(mask, path, **settings):
        calls.append(path)
        if len(calls) == 4:
            path.write_bytes(b"\x89PNG half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(mask, path, **settings)

    monkeypatch.setattr(crt.jobs.job, "save_mask", full)
    with pytest.raises(OSError, match="No space left"):
        make_pseudo_masks(*job, threshold=0.4)
    assert len(masks_in(folder / "out")) == 3 and not list((folder / "out").rglob("*.part"))
    monkeypatch.setattr(crt.jobs.job, "save_mask", real)
    assert make_pseudo_masks(*job, threshold=0.4)[:2] == (COUNT - 3, 3)


def test_killed_and_started_again(folder):
    """kill -9 in the middle: the second run makes what is missing, and all is as if never killed."""
    command = [sys.executable, "-m", "crt.cli", *arguments(folder, folder / "out", "--refine", "pamr")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    manifest = folder / "out" / "manifest.jsonl"
    for _ in range(6000):
        if (manifest.exists() and manifest.read_text().count("\n") >= 2) or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with open(manifest, "a") as file:
        file.write('{"file": "set0/')  # as if killed while writing
    there = len(masks_in(folder / "out"))
    assert there >= 2
    done = CliRunner().invoke(app, arguments(folder, folder / "out", "--refine", "pamr"))
    assert done.exit_code == 0, done.output
    assert "already there" in done.output and "0 already there" not in done.output
    CliRunner().invoke(app, arguments(folder, folder / "alone", "--refine", "pamr"))
    assert masks_in(folder / "out") == masks_in(folder / "alone") and len(masks_in(folder / "out")) == COUNT
    again = CliRunner().invoke(app, arguments(folder, folder / "out", "--refine", "pamr"))
    assert f"0 masks written, {COUNT} already there" in again.output


def test_odd_files_are_reported_and_the_rest_is_done(folder):
    """Corrupt, empty, 16 bits, animated, a negative, of an unknown class, twice in the table."""
    photos = folder / "photos"
    whole = (photos / "set1" / "1.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.jpg").write_bytes(b"")
    Image.fromarray(np.random.default_rng(0).integers(0, 65535, (70, 80), dtype=np.uint16)).save(photos / "deep.png")
    frames = [Image.new("RGB", (80, 70), colour) for colour in ("red", "green")]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    shutil.copy(photos / "set1" / "1.png", photos / "none.png")
    shutil.copy(photos / "set1" / "1.png", photos / "odd.png")
    rows = [
        "cut.png,cat",
        "empty.jpg,cat",
        "deep.png,cat",
        "moving.gif,dog",
        "none.png,",
        "odd.png,cta",
        "odd2.png,cat",
    ]
    with open(folder / "labels.csv", "a") as file:
        file.write("\n".join([*rows, "set1/1.png,dog"]) + "\n")
    done = CliRunner().invoke(app, arguments(folder, folder / "out", "--refine", "none"))
    assert done.exit_code == 2
    for part in (
        "cut.png",
        "empty.jpg",
        "line 19",
        "'cta'",
        "Did you mean 'cat'",
        "odd2.png",
        "stands in the table twice",
    ):
        assert part in done.output, part
    assert f"{COUNT + 3} masks written, 0 already there, 5 failed" in done.output
    assert {"deep.png", "moving.png", "none.png"} <= set(masks_in(folder / "out"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--threshold", "0.5,0.3"], "the lower first"),
        (["--threshold", "a"], "expected numbers"),
        (["--refine", "pmar"], "Did you mean 'pamr'"),
        (["--out", "labels.csv"], "labels.csv"),
    ],
)
def test_mistakes_are_named_before_any_work(folder, monkeypatch, change, message):
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, arguments(folder, folder / "out", *change))
    assert done.exit_code == 2 and message in done.output
    assert not (folder / "out").exists() or not masks_in(folder / "out")


@pytest.mark.parametrize("file", ["{}/cat.png", "../else/cat.png"])
def test_no_mask_lands_outside_or_on_a_photo(folder, tiny, file):
    outside = folder / "else" / "cat.png"
    outside.parent.mkdir()
    shutil.copy(folder / "photos/set0/0.png", outside)
    before = masks_in(folder)
    with open(folder / "labels.csv", "a") as table:
        table.write(f"{file.format(outside.parent)},cat\n")
    done = CliRunner().invoke(app, arguments(folder, folder / "out"))
    assert done.exit_code == 2 and "line 14" in done.output and "leaves the folder" in done.output
    assert len(masks_in(folder / "out")) == COUNT
    with pytest.raises(ValueError, match="would be overwritten"):
        make_pseudo_masks(
            CAMExtractor(tiny), None, ImageDataset.from_csv(*both(folder)), folder / "photos", threshold=0.3
        )
    assert {name: content for name, content in masks_in(folder).items() if not name.startswith("out")} == before


def both(folder):
    table = folder / "inside.csv"
    table.write_text("file,labels\nset0/0.png,cat\nset1/1.png,dog\n")
    return folder / "photos", table


def test_a_mask_that_cannot_have_its_name_is_one_failure(folder, tiny):
    (folder / "photos/long.png").mkdir()
    for file in (f"{'n' * 247}.jpg", f"{'m' * 252}.i", "long.jpg", "long.png/0.jpg"):
        Image.new("RGB", (70, 70)).save(folder / "photos" / file, "jpeg")
        with open(folder / "labels.csv", "a") as table:
            table.write(f"{file},cat\n")
    report = make_pseudo_masks(CAMExtractor(tiny), None, photos_of(folder, tiny), folder / "out", threshold=0.3)
    assert report.written == COUNT + 2  # 247 + .png is as long as a name can be; long.png was first
    assert [Path(file).name for file, _ in report.failed] == [f"{'m' * 252}.i", "0.jpg"]
    assert all("cannot be called" in reason for _, reason in report.failed)


def test_decoders_may_raise_what_they_like(folder, tiny, monkeypatch):
    opened = Image.open

    def broken(file, *more, **options):
        if str(file).endswith("4.png"):
            raise RuntimeError("decoder")
        return opened(file, *more, **options)

    monkeypatch.setattr(Image, "open", broken)
    report = make_pseudo_masks(CAMExtractor(tiny), None, photos_of(folder, tiny), folder / "out", threshold=0.3)
    assert report.written == COUNT - 1 and "cannot be read as a photo: decoder" in report.failed[0][1]


def test_what_a_killed_process_left_is_removed(folder, tiny):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = [f".{platform.node()}.{pid}.0123abcd.part" for pid in (gone.pid, os.getpid())]
    (folder / "out/set0").mkdir(parents=True)
    for name in names:
        (folder / "out/set0" / name).write_bytes(b"half")
    make_pseudo_masks(CAMExtractor(tiny), None, photos_of(folder, tiny), folder / "out", threshold=0.3)
    assert [file.name for file in (folder / "out").rglob(".*.part")] == names[1:]


def test_a_short_write_of_the_manifest_is_a_full_disk(folder, tiny, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    with pytest.raises(OSError, match="No space"):
        make_pseudo_masks(CAMExtractor(tiny), None, photos_of(folder, tiny), folder / "out", threshold=0.3)


def test_a_broken_photo_of_one_process_does_not_stop_the_others(folder):
    """The launcher ends the others as soon as one fails, so all must end together."""
    for i in range(1, COUNT, 2):
        (folder / f"photos/set1/{i}.png").write_bytes(b"broken")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "crt.cli", *arguments(folder, folder / "out", "--refine", "none")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode != 0
    assert len(masks_in(folder / "out")) == COUNT // 2
    assert f"{COUNT // 2} masks written, 0 already there, {COUNT // 2} failed" in done.stdout


def test_masks_do_not_go_where_subfolders_are_classes(folder):
    command = ["pseudo", "--images", str(folder / "photos"), "--out", str(folder / "photos/masks")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and "each subfolder is a class" in done.output
