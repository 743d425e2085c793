"""ONNX files against PyTorch: the graphs of a tiny model give the maps and masks of the model itself."""

import json

import pytest
import torch
from typer.testing import CliRunner

from crt.cam.functional import normalize_cam
from crt.cli import app
from crt.models import CRT, SegmentationNet
from crt.models.export import SegmentGraph

from .conftest import TINY

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra `export`")
pytest.importorskip("onnxscript", reason="needs the extra `export`")

WHOLE = {"scales": (1.0,), "flip": False, "max_side": None, "tile": "whole"}
COMPETE = {"activation": "softmax", "spread": 4.0, "classifier": "tokens", "whole": True, "seed_threshold": 0.4}


def run(path, x):
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def network(**changes):
    names = ["cat", "dog", "cow"]
    return CRT("vit_tiny_patch16_224", num_classes=3, class_names=names, num_passes=1, **TINY, **changes).eval()


def agree(scores, wanted):
    """The argmax is the mask, wherever the two best scores are not almost the same."""
    first, second = scores.topk(2, dim=1).values.unbind(dim=1)
    clear = first - second > 1e-4
    assert clear.float().mean() > 0.9
    return torch.equal(scores.argmax(dim=1)[clear], wanted.long()[clear])


@pytest.mark.parametrize(
    "changes", [{}, COMPETE, {"activation": "sigmoid", "spread": 2.0}, {"pool": 0.3, "attention_power": 0.0}]
)
def test_the_graph_segments_as_the_model(changes):
    model = network(**changes)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        scores = SegmentGraph(model)(x)
    assert scores.shape == (2, 4, 64, 96) and agree(scores, model.segment(x, **WHOLE))


def test_segment_of_two_sizes_from_one_file(tmp_path):
    model = network(**COMPETE)
    model.export(tmp_path / "m.onnx", size="any")
    for batch, height, width in [(1, 64, 96), (3, 112, 80)]:
        x = torch.randn(batch, 3, height, width)
        scores = run(tmp_path / "m.onnx", x)
        assert scores.shape == (batch, 4, height, width)
        with torch.no_grad():
            torch.testing.assert_close(scores, SegmentGraph(model)(x), rtol=1e-3, atol=1e-5)
        assert agree(scores, model.segment(x, **WHOLE))


def test_the_command_writes_maps_of_a_fixed_size(tmp_path):
    model = network(activation="sigmoid", spread=2.0)
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "m.onnx"
    command = ["export", f"local-dir:{tmp_path / 'model'}", "--onnx", str(file), "--graph", "cam", "--size"]
    done = CliRunner().invoke(app, [*command, "80x112"])
    assert done.exit_code == 0, done.output
    x = torch.randn(2, 3, 80, 112)
    maps = run(file, x)
    assert maps.shape == (2, 3, 5, 7)
    wanted = model.cam(x, torch.ones(2, 3, dtype=torch.bool), size=(5, 7), **WHOLE)
    torch.testing.assert_close(normalize_cam(maps), wanted, rtol=1e-4, atol=1e-5)
    found = {entry.key: json.loads(entry.value) for entry in onnx.load(file).metadata_props}
    assert found["class_names"] == ["cat", "dog", "cow"] and found["patch"] == 16 and found["graph"] == "cam"
    assert (found["mean"], found["std"], found["threshold"]) == (model.config["mean"], model.config["std"], 0.15)
    for wrong, message in [("64", "HEIGHTxWIDTH"), ("100x100", "whole patches")]:
        done = CliRunner().invoke(app, [*command, wrong])
        assert done.exit_code == 2 and message in " ".join(done.output.split())


def test_mistakes_are_named(tmp_path):
    model = network()
    with pytest.raises(ValueError, match="whole patches of 16 pixels"):
        model.export(tmp_path / "m.onnx", size=(100, 100))
    with pytest.raises(ValueError, match="has the graphs segment, cam"):
        model.export(tmp_path / "m.onnx", graph="boxes")
    assert not list(tmp_path.iterdir())


def test_a_segmentation_network_has_one_graph(tmp_path):
    pytest.importorskip("segmentation_models_pytorch", reason="needs the extra `segment`")
    net = SegmentationNet("unet", "tu-mobilenetv3_small_050", num_classes=2).eval()
    with pytest.raises(ValueError, match="exported at a fixed size"):
        net.export(tmp_path / "n.onnx", size="any")
    with pytest.raises(ValueError, match="has the graphs segment"):
        net.export(tmp_path / "n.onnx", graph="cam")


def test_an_older_torch_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__version__", "2.7.1+cu126")
    with pytest.raises(ValueError, match=r"needs torch 2\.8, this is 2\.7\.1\+cu126: pip install 'crt-wsss\[export\]'"):
        network().export(tmp_path / "m.onnx")
