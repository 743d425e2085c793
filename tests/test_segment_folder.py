"""``crt segment``: masks of many photos without labels."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import crt.jobs.job
from crt.cam import CAMExtractor
from crt.cam.segment import Segmenter
from crt.cli import app
from crt.data import ImageDataset
from crt.data.unlabelled import list_photos
from crt.images import open_image
from crt.masks import load_mask
from crt.pseudo import make_pseudo_masks
from crt.segmenting import segment_folder

COUNT = 5


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for i in range(COUNT):
        file = tmp_path / "photos" / f"set{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (60 + i, 90, 3), dtype=np.uint8)).save(file)
    return tmp_path / "photos"


class Bright(torch.nn.Module):
    """Predicts masks itself: class 1 where a photo is bright."""

    class_names, num_classes, device = ("bright",), 1, torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.calls = []

    def segment(self, image, *, max_side=640):
        self.calls.append(tuple(image.shape))
        if (image == 7).all():
            raise MemoryError
        return (image.float().mean(dim=0, keepdim=True) > 127).to(torch.uint8)


def run(tmp_path, photos, *more):
    arguments = [photos, "--out", tmp_path / "out", "--model", f"local-dir:{tmp_path / 'model'}", *more]
    return CliRunner().invoke(app, ["segment", *map(str, arguments)])


def test_each_photo_gets_its_mask_and_a_picture(tmp_path, photos, tiny):
    segmenter = Segmenter(tiny, scales=(1.0,))
    samples = list_photos([photos])
    assert segment_folder(segmenter, samples, tmp_path / "out") == (COUNT, 0, [])
    for sample in samples:
        (expected,) = segmenter(sample.image)
        mask = load_mask(tmp_path / "out" / f"{sample.name}.mask.png")
        assert np.array_equal(mask, expected.mask.numpy())
        picture = Image.open(tmp_path / "out" / f"{sample.name}.png")
        assert picture.size == expected.panel().size
    assert segment_folder(segmenter, samples, tmp_path / "out") == (0, COUNT, [])
    (tmp_path / "out" / f"{samples[0].name}.png").unlink()
    (tmp_path / "out" / f"{samples[3].name}.mask.png").write_bytes(b"")
    assert segment_folder(segmenter, samples, tmp_path / "out") == (2, COUNT - 2, [])
    with pytest.raises(ValueError, match=r"segmenter.threshold: None then, 0.2 now"):
        segment_folder(Segmenter(tiny, scales=(1.0,), threshold=0.2), samples, tmp_path / "out")


def test_the_command_lists_failures_and_does_the_rest(tmp_path, photos, tiny):
    tiny.save_pretrained(tmp_path / "model")
    (photos / "broken.jpg").write_bytes(b"no photo")
    os.mkfifo(photos / "pipe.png")
    done = run(tmp_path, photos, "--scales", "1")
    assert done.exit_code == 2 and "broken.jpg" in done.output and "named pipe" in done.output
    assert f"{COUNT} masks written, 0 already there, 2 failed" in done.output
    assert len((tmp_path / "out/manifest.jsonl").read_text().splitlines()) == COUNT
    done = run(tmp_path, photos, "--scales", "1")
    assert f"0 masks written, {COUNT} already there, 2 failed" in done.output


@pytest.mark.parametrize("ignored", [False, True])
def test_names_that_differ_in_case_alone(tmp_path, photos, monkeypatch, ignored):
    """Where the file system takes them for one, the second fails and the first keeps its mask."""
    (photos / "set0/0.PNG").write_bytes((photos / "set0/0.png").read_bytes())
    (photos / "set1/b.png").write_bytes((photos / "set0/0.png").read_bytes())
    (photos / "set1/B.png").write_bytes((photos / "set0/2.png").read_bytes())
    monkeypatch.setattr(crt.jobs.job, "ignores_case", lambda folder: ignored)
    report = segment_folder(Bright(), list_photos([photos]), tmp_path / "out")
    assert report.written == COUNT + (1 if ignored else 3)
    assert [reason.split(" would")[0] for _, reason in report.failed] == ["its mask"] * (2 if ignored else 0)


def test_a_network_that_predicts_masks_itself(tmp_path, photos):
    Image.new("RGB", (90, 60), (7, 7, 7)).save(photos / "set0/1.png")
    model, samples = Bright(), list_photos([photos])
    report = segment_folder(model, samples, tmp_path / "out")
    assert report.written == COUNT and [file for file, _ in report.failed] == [str(photos / "set0/1.png")]
    assert "MemoryError" in report.failed[0][1]
    for sample in samples[2:]:
        expected = open_image(sample.image).float().mean(dim=0) > 127
        assert np.array_equal(load_mask(tmp_path / "out" / f"{sample.name}.mask.png"), expected.numpy())


def test_large_photos_are_read_small_and_their_masks_written_large(tmp_path, monkeypatch):
    monkeypatch.setattr(crt.jobs.job, "WORKING_SIDE", 32)
    half = np.zeros((300, 500, 3), dtype=np.uint8)
    half[:, 250:] = 255
    picture = Image.fromarray(half)
    (tmp_path / "photos").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(tmp_path / "photos/plain.png")
    picture.save(tmp_path / "photos/turned.jpg", exif=exif)
    model = Bright()
    samples = list_photos([tmp_path / "photos"])
    assert segment_folder(model, samples, tmp_path / "out", seen={"max_side": 100}).failed == []
    assert model.calls == [(3, 60, 100), (3, 100, 60)]
    plain, turned = (load_mask(tmp_path / "out" / f"{sample.name}.mask.png") for sample in samples)
    assert np.array_equal(plain, half[..., 0] // 255) and turned.shape == (500, 300)
    assert np.array_equal(turned, np.rot90(plain, -1))


def test_large_pseudo_masks_have_the_size_of_the_photo(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(crt.jobs.job, "WORKING_SIDE", 64)
    (tmp_path / "photos").mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((310, 210), Image.Resampling.BICUBIC).save(tmp_path / "photos/a.png")
    (sample,) = list_photos([tmp_path / "photos"])
    data = ImageDataset([sample._replace(labels=[1])], tiny.class_names)
    extractor = CAMExtractor(tiny, max_side=70)
    assert make_pseudo_masks(extractor, None, data, tmp_path / "out", threshold=0.4).written == 1
    mask = load_mask(tmp_path / "out/a.png")
    assert mask.shape == (210, 310) and set(np.unique(mask)) == {0, 2}
    (whole,) = extractor(sample.image, [[1]])
    assert (mask == whole.mask(0.4).numpy()).mean() > 0.95


def test_photos_by_file_and_by_folder(tmp_path, photos):
    assert [s.name for s in list_photos([photos])] == ["set0/0", "set0/2", "set0/4", "set1/1", "set1/3"]
    assert [s.name for s in list_photos([photos / "set1/3.png", photos / "set0"])] == ["3", "0", "2", "4"]
    (photos / "set1/0.png").write_bytes((photos / "set1/1.png").read_bytes())
    names = [s.name for s in list_photos([photos / "set0", photos / "set1", photos / "set0/0.png"])]
    assert names == ["set0/0", "2", "4", "set1/0", "1", "3"]
    (photos / "set0/0.jpg").write_bytes(b"")
    (photos / "set0/__MACOSX").mkdir()
    (photos / "set0/__MACOSX/0.png").write_bytes(b"")
    assert [s.name for s in list_photos([photos], without=photos / "set1")] == [
        "set0/0.jpg",
        "set0/0.png",
        "set0/2",
        "set0/4",
    ]
    with pytest.raises(FileNotFoundError, match="there is no photo or folder at"):
        list_photos([tmp_path / "nothing"])


def test_no_result_lands_on_a_photo_or_on_another_result(photos):
    with pytest.raises(ValueError, match="would be overwritten"):
        segment_folder(Bright(), list_photos([photos]), photos)
    (photos / "set0/0.mask.png").write_bytes((photos / "set0/0.png").read_bytes())
    report = segment_folder(Bright(), list_photos([photos]), photos / "out")
    assert report.written == COUNT and [file for file, _ in report.failed] == [str(photos / "set0/0.png")]


def test_auto_thresholds_are_kept_by_a_job_that_goes_on(tmp_path, photos, tiny, monkeypatch):
    data = ImageDataset([s._replace(labels=[i % 5]) for i, s in enumerate(list_photos([photos]))], tiny.class_names)
    extractor = CAMExtractor(tiny)
    assert make_pseudo_masks(extractor, None, data, tmp_path / "out", threshold="auto").written == COUNT
    low, high = json.loads((tmp_path / "out/settings.json").read_text())["settings"]["threshold"]
    assert 0 < low <= high < 1
    best = extractor(data[0].image, [data[0].labels])[0].maps.amax(dim=0).numpy()
    mask = load_mask(tmp_path / "out" / f"{data[0].name}.png")
    assert np.array_equal(mask == 255, (best >= low) & (best <= high))
    monkeypatch.setattr("crt.pseudo.masks.find_thresholds", lambda *_: pytest.fail("fitted again"))
    assert make_pseudo_masks(extractor, None, data, tmp_path / "out", threshold="auto")[:2] == (0, COUNT)


def test_eval_segment_measures_without_labels(tmp_path, voc, model):
    arguments = ["eval", "segment", "--voc", voc, "--list", "train", "--model", model, "--scales", "1"]
    done = CliRunner().invoke(app, [*map(str, arguments), "--json", str(tmp_path / "record.json")])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["labels"] == "none" and record["photos"] == 2 and 0 <= record["miou"] <= 1
    assert f"mIoU {100 * record['miou']:.2f}" in done.output
