"""Offline, on the CPU, with a model small enough for every test."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crt.data import VOC_CLASSES
from crt.masks import save_mask
from crt.models import CRT

GOLDEN = Path(__file__).parent / "golden"
TINY = {"tile": 64, "stride": 32, "backbone_args": {"embed_dim": 32, "depth": 2, "num_heads": 2}}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def tiny() -> CRT:
    """A random CRT of 64-pixel tiles, 4 x 4 patches each, that knows five classes."""
    names = ["cat", "dog", "cow", "bird", "person"]
    return CRT("vit_tiny_patch16_224", num_classes=5, class_names=names, **TINY).eval()


@pytest.fixture
def photo() -> torch.Tensor:
    """(3, 100, 150) raw pixels."""
    return torch.randint(0, 256, (3, 100, 150), dtype=torch.uint8)


@pytest.fixture
def model(tmp_path):
    """A folder with a small random model of the VOC classes, as --model takes it."""
    network = CRT("vit_tiny_patch16_224", num_classes=20, class_names=VOC_CLASSES, **TINY)
    network.save_pretrained(tmp_path / "model")
    return f"local-dir:{tmp_path / 'model'}"


@pytest.fixture
def voc(tmp_path):
    """A VOC folder of two random photos."""
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        save_mask(random.choice([0, 8, 255], (60, 80)), root / f"SegmentationClassAug/{name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("a\nb\n")
    (root / "labels.csv").write_text("id,labels\na,cat\nb,cat dog\n")
    return root


@pytest.fixture
def cub(tmp_path):
    """A folder in CUB's layout: six photos of two classes that the tiny model knows, two boxes in the first."""
    random = np.random.default_rng(0)
    rows = {name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")}
    for i in range(1, 7):
        file = tmp_path / "images" / ("001.cat" if i < 4 else "002.dog") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (50 + i, 70, 3), dtype=np.uint8)).save(file)
        rows["images"].append(f"{i} {file.relative_to(tmp_path / 'images')}")
        rows["image_class_labels"].append(f"{i} {1 if i < 4 else 2}")
        rows["train_test_split"].append(f"{i} {i % 2}")
        rows["bounding_boxes"].append(f"{i} 10.5 5 {20 + i} 30.0")
    rows["bounding_boxes"].append("2 1 1 5 5")
    for name, lines in rows.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "classes.txt").write_text("1 001.cat\n2 002.dog\n")
    return tmp_path
