"""The recipe of docs/training.md on real photos: birds of CUB-200-2011, known by their class, to masks of them.

Skipped where the photos are not: they may not be part of the project.  Tiles are small, so that it takes seconds.
"""

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate", reason="needs the extra `train`")

from typer.testing import CliRunner

import crt
from crt.cli import app
from crt.data import ImageDataset
from crt.images import normalize, to_tensor
from crt.masks import load_mask

ARCHIVE = Path(__file__).parents[2] / "shared" / "data" / "cub50.tar"
CLASSES = {"014.Indigo_Bunting": "bunting", "017.Cardinal": "cardinal", "047.American_Goldfinch": "goldfinch"}
PHOTOS = 8  # of each class
QUICK = ["cnn=null", "batch_size=6", "crop=96", "warmup=3", "area=[0.6,1.0]"]

pytestmark = pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"needs the photos of {ARCHIVE}")


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """A folder of photos, labels.csv, and the true boxes (x, y, width, height) by the photos' names."""
    root = tmp_path_factory.mktemp("birds")
    (root / "photos").mkdir()
    boxes, rows, taken = {}, [], dict.fromkeys(CLASSES, 0)
    with tarfile.open(ARCHIVE) as archive:

        def table(name):
            return [
                line.split() for line in archive.extractfile(f"CUB_200_2011/{name}.txt").read().decode().splitlines()
            ]

        places = {number: [float(cell) for cell in cells] for number, *cells in table("bounding_boxes")}
        for number, file in table("images"):
            species = file.split("/")[0]
            if taken.get(species, PHOTOS) < PHOTOS:
                taken[species] += 1
                pixels = archive.extractfile(f"CUB_200_2011/images/{file}").read()
                (root / "photos" / f"{number}.jpg").write_bytes(pixels)
                rows.append([f"{number}.jpg", CLASSES[species]])
                boxes[number] = places[number]
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "labels"], *rows])
    return root, boxes


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def losses(folder, name):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines]


def pointing(folder, boxes):
    """The share of a mask's pixels that lie in the true box, and the box's share of the photo: means of all photos."""
    inside, by_chance = [], []
    for name, (x, y, width, height) in boxes.items():
        found = np.isin(load_mask(folder / f"{name}.png"), (1, 2, 3))
        box = np.zeros_like(found)
        box[round(y) : round(y + height), round(x) : round(x + width)] = True
        inside.append(found[box].sum() / max(found.sum(), 1))
        by_chance.append(box.mean())
    return np.mean(inside), np.mean(by_chance)


def test_from_labels_to_masks(birds, tmp_path, monkeypatch):
    monkeypatch.setattr("crt.train.log.LOG_EVERY", 5)
    root, boxes = birds
    table = ["--images", root / "photos", "--labels", root / "labels.csv"]
    photos = ImageDataset.from_csv(root / "photos", root / "labels.csv")
    assert len(photos) == len(CLASSES) * PHOTOS == len(boxes)
    small = {"class_names": photos.class_names, "tile": 96, "stride": 48}
    crt.create_model("crt_vit_t16", pretrained=True, **small).save_pretrained(tmp_path / "start")

    settings = [part for change in [*QUICK, "epochs=5"] for part in ("--set", change)]
    run("train", "cam", *table, "--start", tmp_path / "start", *settings, "--workers", 0, "--out", tmp_path / "run1")
    falling = losses(tmp_path / "run1", "vit")
    assert falling[-1] < 0.7 * falling[0]

    model = crt.create_model(f"local-dir:{tmp_path / 'run1/model'}", pretrained=True)
    right = 0
    for photo in photos:
        image = Image.open(photo.image).convert("RGB").resize((96, 96))
        with torch.no_grad():
            right += int(model(normalize(to_tensor(image), model.mean, model.std)[None])[0].argmax()) == photo.labels[0]
    assert right >= 0.6 * len(photos)  # a third by chance

    maps = [f"local-dir:{tmp_path / 'run1/model'}", "--scales", 0.75, "--no-flip"]
    run("pseudo", *table, "--model", *maps, "--threshold", "0.30,0.44", "--out", tmp_path / "masks1")
    for photo in photos:
        mask = load_mask(tmp_path / "masks1" / f"{photo.name}.png")
        with Image.open(photo.image) as image:
            assert mask.shape == (image.height, image.width)
        assert {photo.labels[0] + 1} <= set(np.unique(mask)) <= {0, photo.labels[0] + 1, 255}
    inside, by_chance = pointing(tmp_path / "masks1", boxes)
    assert inside > by_chance + 0.25

    settings = [part for change in [*QUICK, "epochs=5", "lr=0.0002"] for part in ("--set", change)]
    second = ["--recipe", "t16-voc9k-masks", "--masks", tmp_path / "masks1", "--start", tmp_path / "run1/model"]
    run("train", "cam", *table, *second, *settings, "--workers", 0, "--out", tmp_path / "run2")
    falling = losses(tmp_path / "run2", "mask")
    assert falling[-1] < falling[0]

    maps = [f"local-dir:{tmp_path / 'run2/model'}", "--scales", 0.75, "--no-flip"]
    run("pseudo", *table, "--model", *maps, "--threshold", 0.4, "--out", tmp_path / "masks2")
    inside, by_chance = pointing(tmp_path / "masks2", boxes)
    assert inside > by_chance + 0.15
