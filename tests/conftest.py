"""Offline, on the CPU, with a model small enough for every test."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest
import torch

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
