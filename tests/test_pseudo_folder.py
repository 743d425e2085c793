"""The folder of a pseudo-mask job: its settings, manifest and lock; failures of one photo; peers."""

import copy
import errno
import json
import os
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import crt.jobs.entry
import crt.jobs.job
from crt._files import lock_folder
from crt.cam import CAMExtractor
from crt.data import ImageDataset
from crt.jobs.entry import Entry, Stamp
from crt.jobs.fingerprint import autocast_of
from crt.jobs.manifest import Manifest
from crt.jobs.peers import Peers
from crt.masks import load_mask
from crt.models import BoundaryNet
from crt.pseudo import make_pseudo_masks
from crt.refine import PAMR, RandomWalk
from crt.refine.attention import AttentionAffinity
from crt.refine.crf import CRFSettings, crf_labels
from crt.refine.registry import Refiners

from .test_pseudo import COUNT, folder, masks_in, photos_of  # noqa: F401


@pytest.fixture
def job(folder, tiny):  # noqa: F811
    return CAMExtractor(tiny), None, photos_of(folder, tiny), folder / "out"


def test_two_photos_of_one_name(folder, tiny, job):  # noqa: F811
    photos = photos_of(folder, tiny)
    twin = photos[0]._replace(image=folder / "photos/set0/0.jpg")
    Image.new("RGB", (40, 40)).save(twin.image)
    twice = ImageDataset([*photos.samples, twin], photos.class_names)
    report = make_pseudo_masks(CAMExtractor(tiny), None, twice, folder / "out", threshold=0.4)
    assert report.written == COUNT and [file for file, _ in report.failed] == [str(twin.image)]
    assert "0.png" in report.failed[0][1] and load_mask(folder / "out/set0/0.png").shape == (70, 90)


def test_a_photo_without_labels_is_all_background(job):
    _, _, photos, out = job
    for i in (0, 3, 4, COUNT - 1):
        photos.samples[i] = photos[i]._replace(labels=[])
    assert make_pseudo_masks(*job, threshold=0.3) == (COUNT, 0, [])
    for photo in photos.samples:
        mask = load_mask(out / f"{photo.name}.png")
        assert mask.shape == Image.open(photo.image).size[::-1] and mask.any() == bool(photo.labels)
    assert make_pseudo_masks(*job, threshold=0.3)[:2] == (0, COUNT)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_are_failures(folder, tiny, job, value):  # noqa: F811
    broken, photos = copy.deepcopy(tiny), job[2]
    broken.head.bias.data[0] = value
    with_cat = [photo for photo in photos.samples if 0 in photo.labels]
    report = make_pseudo_masks(CAMExtractor(broken), None, photos, folder / "out", threshold=0.3)
    assert report.written == COUNT - len(with_cat) == len(masks_in(folder / "out"))
    assert [file for file, _ in report.failed] == [str(photo.image) for photo in with_cat]
    assert all("NaN or infinite" in reason for _, reason in report.failed)
    report = make_pseudo_masks(CAMExtractor(tiny), lambda image, cam: cam * value, photos, folder / "re", threshold=0.3)
    assert report.written == 0 and all("refined maps have NaN" in reason for _, reason in report.failed)


def variants(tiny):
    """Jobs that differ in one thing that changes pixels: model, extraction, refiner, cleaning."""
    other, square, dark = (copy.deepcopy(tiny) for _ in range(3))
    other.head.bias.data[0] += 1e-3
    square.attention_power = 2.0
    dark._mean = [0.4, 0.4, 0.4]
    net = BoundaryNet("mobilenetv3_small_050", boundary_width=8, displacement_width=8)
    trained = copy.deepcopy(net)
    trained.boundary_head.last.bias.data += 1e-3
    extractors = [
        *(CAMExtractor(model) for model in (tiny, other, square, dark)),
        *(CAMExtractor(tiny, **change) for change in ({"max_side": 320}, {"flip": False}, {"stride": 48})),
        CAMExtractor(tiny, scales=(1.0, 0.5)),
    ]
    refiners = [
        PAMR(),
        PAMR(iterations=9),
        PAMR(bandwidth=0.2),
        Refiners(PAMR(), PAMR()),
        Refiners(PAMR(), PAMR(iterations=9)),
        RandomWalk(net),
        RandomWalk(net, beta=8),
        RandomWalk(trained),
        AttentionAffinity(tiny),
        AttentionAffinity(tiny, power=2),
        AttentionAffinity(square),
    ]
    cleaners = [
        crf_labels,
        partial(crf_labels, gt_prob=0.6),
        partial(crf_labels, settings=CRFSettings(iterations=5)),
        partial(crf_labels, settings=CRFSettings(bilateral_srgb=7)),
    ]
    yield from ((extractor, None, None) for extractor in extractors)
    yield from ((extractors[0], refiner, None) for refiner in refiners)
    yield from ((extractors[0], None, clean) for clean in cleaners)


def test_the_fingerprint_covers_all_that_changes_a_pixel(tmp_path, tiny):
    nothing, found = ImageDataset([], tiny.class_names), []
    for number, (extractor, refiner, clean) in enumerate(variants(tiny)):
        told = []
        for batch in (1, 16):  # changes nothing
            extractor.batch_size, place = batch, tmp_path / f"{number}.{batch}"
            make_pseudo_masks(extractor, refiner, nothing, place, threshold=0.3, clean=clean)
            told.append(json.loads((place / "settings.json").read_text())["fingerprint"])
        assert told[0] == told[1]
        found.append(told[0])
    assert len(set(found)) == len(found) == 23


def test_what_differs_is_told(folder, tiny):  # noqa: F811
    photos = photos_of(folder, tiny)
    make_pseudo_masks(CAMExtractor(tiny), Refiners(PAMR()), photos, folder / "out", threshold=0.4)
    other = copy.deepcopy(tiny)
    other.attention_power = 0.5
    before = (folder / "out/manifest.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"extractor.max_side: 640 then, 320 now, extractor.model.config.attention_p"):
        make_pseudo_masks(CAMExtractor(other, max_side=320), Refiners(PAMR()), photos, folder / "out", threshold=0.4)
    with pytest.raises(ValueError, match=r"refiner.0.iterations: 10 then, 3 now\)"):
        make_pseudo_masks(CAMExtractor(tiny), Refiners(PAMR(3)), photos, folder / "out", threshold=0.4)
    assert (folder / "out/manifest.jsonl").read_bytes() == before


def test_a_damaged_manifest_is_mended(folder, job):  # noqa: F811
    make_pseudo_masks(*job, threshold=0.4)
    file = folder / "out/manifest.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    odd = [b"[" * 100_000 + b"\n", json.dumps({"file": "set0/0"}).encode() + b"\n", b"\xff\xfe\n", b"3\n"]
    wrong = lines[5].replace(b'"photo_size": ', b'"photo_size": "x", "other": ')
    number = json.dumps({**json.loads(lines[6]), "labels": 3}).encode() + b"\n"
    file.write_bytes(b"".join([*odd, *lines[:5], wrong, number, *lines[7:], *lines[:2]])[:-9])
    assert make_pseudo_masks(*job, threshold=0.4) == (2, COUNT - 2, [])
    mended = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(line["file"] for line in mended) == sorted(photo.name for photo in job[2].samples)
    (folder / "out/set0/0.png").unlink()
    assert make_pseudo_masks(*job, threshold=0.4)[:2] == (1, COUNT - 1)
    assert len(file.read_text().splitlines()) == COUNT  # made again, told once


def test_a_folder_of_an_older_version_is_refused(folder, job):  # noqa: F811
    (folder / "out").mkdir()
    old = {"file": "set0/0", "labels": [0], "photo_sha256": "a", "mask_sha256": "b", "threshold": [0.4, 0.4]}
    (folder / "out/manifest.jsonl").write_text(json.dumps(old) + "\n")
    with pytest.raises(ValueError, match="an older version"):
        make_pseudo_masks(*job, threshold=0.4)


def test_resuming_reads_no_photo_and_no_mask(folder, job, monkeypatch):  # noqa: F811
    make_pseudo_masks(*job, threshold=0.4)
    with monkeypatch.context() as patch:
        patch.setattr(crt.jobs.entry.Stamp, "of", lambda path: pytest.fail(f"{path} was read"))
        assert make_pseudo_masks(*job, threshold=0.4)[:2] == (0, COUNT)
    for file in [*(folder / "photos").rglob("*.png"), *(folder / "out").rglob("*.png")]:
        os.utime(file, (0, 0))  # as copies are: then the content counts
    assert make_pseudo_masks(*job, threshold=0.4)[:2] == (0, COUNT)


def test_two_jobs_on_one_folder(folder, job):  # noqa: F811
    (folder / "out").mkdir()
    with lock_folder(folder / "out"):
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on "):
            make_pseudo_masks(*job, threshold=0.4)
        assert make_pseudo_masks(*job, threshold=0.4, process=(1, 2)).written == COUNT // 2  # of the same job


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_photo_too_large_to_compute_is_one_failure(folder, tiny, monkeypatch, error):  # noqa: F811
    compute, large = type(tiny).tile_maps, folder / "photos/set0/4.png"
    Image.new("RGB", (90, 74), "blue").save(large)

    def limited(self, tiles):
        if (tiles[:, 2].flatten(1).amax(dim=1) - tiles[:, 0].flatten(1).amax(dim=1) > 1.5).any():
            raise error
        return compute(self, tiles)

    photos = photos_of(folder, tiny)
    photos.samples[5] = photos[5]._replace(labels=[])
    with monkeypatch.context() as patch:
        patch.setattr(type(tiny), "tile_maps", limited)
        report = make_pseudo_masks(CAMExtractor(tiny, batch_size=3), None, photos, folder / "out", threshold=0.3)
    assert [file for file, _ in report.failed] == [str(large)]
    assert type(error).__name__ in report.failed[0][1]
    make_pseudo_masks(CAMExtractor(tiny), None, photos, folder / "alone", threshold=0.3)
    whole = masks_in(folder / "alone")
    assert whole.pop("set0/4.png") and masks_in(folder / "out").keys() == whole.keys()


def test_many_failures_in_a_row_are_not_the_photos(job, tiny, monkeypatch):
    monkeypatch.setattr(crt.jobs.job, "_TOO_MANY", 5)
    monkeypatch.setattr(type(tiny), "tile_maps", lambda self, tiles: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_pseudo_masks(*job, threshold=0.3)


def test_a_full_disk_names_the_file(job, monkeypatch):
    def full(mask, path, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(crt.jobs.job, "save_mask", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*out/set0/0.png'"):
        make_pseudo_masks(*job, threshold=0.3)


def test_an_interrupt_says_what_is_done(job):
    def stop(results, total):
        for number, result in enumerate(results):
            if number == 3:
                raise KeyboardInterrupt
            yield result

    with pytest.raises(KeyboardInterrupt, match=r"stopped: 3 masks written to .*, 0 were there, 0 failed"):
        make_pseudo_masks(*job, threshold=0.3, progress=stop)
    assert make_pseudo_masks(*job, threshold=0.3)[:2] == (COUNT - 3, 3)


def test_claimed_chunks_go_to_who_is_free(job, monkeypatch):
    monkeypatch.setattr(crt.jobs.job, "CHUNK", 5)
    numbers = iter([0, 2, 7])
    assert make_pseudo_masks(*job, threshold=0.3, process=(0, 2), claim=lambda: next(numbers)).written == 7
    others = iter([1, 3])
    assert make_pseudo_masks(*job, threshold=0.3, process=(1, 2), claim=lambda: next(others)).written == 5

    def gone():
        raise ConnectionError("the others are gone")

    with pytest.raises(ConnectionError, match="gone"):
        make_pseudo_masks(*job, threshold=0.3, process=(0, 2), claim=gone)


def test_a_peer_that_died_ends_the_others():
    store = torch.distributed.HashStore()
    first, second = (Peers(rank, 3, store, patience=1.5) for rank in (0, 1))
    assert [first.claim(), second.claim(), first.claim()] == [0, 1, 2]
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"process [12] of 3 has given no sign of life"):
        first.finish((1, 2))
    assert time.monotonic() - started < 20


def test_a_store_that_does_not_answer_ends_the_others():
    silent = SimpleNamespace(add=lambda key, value: threading.Event().wait())
    peers = Peers(1, 2, silent, patience=0.5)
    started = time.monotonic()
    with pytest.raises(ConnectionError, match=r"has not answered for 0.5 seconds.*goes on from there"):
        peers.claim()
    with pytest.raises(ConnectionError):
        peers.finish()
    assert time.monotonic() - started < 20


def test_the_index_of_a_manifest_is_small_and_finds_each_line(tmp_path):
    stamp = Stamp(1, 2, "ab" * 32)
    entries = [
        Entry(name, [0, 3], stamp, stamp) for name in [*map(str, range(50)), "7", 'q"uote', "caf\u00e9", "x" * 3000]
    ]
    manifest = Manifest(tmp_path, {"a": 1}, {})
    for entry in entries:
        manifest.add(entry)
    with open(tmp_path / "manifest.jsonl", "ab") as file:
        file.write(b'{"file": "half')
    read = Manifest(tmp_path, {"a": 1}, {}, lead=False)
    assert len(read) == 53 and all(read.get(entry.file) == entry for entry in entries)
    assert "50" not in read and read.get("half") is None
    assert len((tmp_path / "manifest.jsonl").read_bytes().splitlines()) == 55
    Manifest(tmp_path, {"a": 1}, {})  # the first process leaves one line a mask
    lines = (tmp_path / "manifest.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["file"] for line in lines[:8]] == ["0", "1", "2", "3", "4", "5", "6", "8"] and len(
        lines
    ) == 53


def test_settings_name_the_precision_of_autocast():
    cpu = torch.device("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        assert autocast_of(cpu) == "bfloat16"
    assert autocast_of(cpu) is None
