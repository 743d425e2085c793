"""What every registered model must do.  A new model adds no test code: it is found in the registry."""

import pytest
import torch
from timm.data import resolve_model_data_config

import crt
from crt.models import BoundaryNet, SegmentationNet
from crt.models.registry import model_entrypoint


@pytest.fixture(params=crt.list_models(), scope="module")
def model(request):
    """The registered architecture with its own width, two blocks deep, for three classes."""
    names = ["one", "two", "three"]
    return model_entrypoint(request.param)(num_classes=3, class_names=names, backbone_args={"depth": 2}).eval()


@torch.no_grad()
def test_shapes(model):
    assert model.forward_features(torch.randn(2, 3, 224, 224)).shape == (2, 1 + 14 * 14, model.backbone.embed_dim)
    assert model.forward_maps(torch.randn(1, 3, 250, 300)).shape == (1, 3, 16, 19)
    assert model(torch.randn(2, 3, 224, 224)).shape == (2, 3)
    assert model.raw_cam(torch.randn(1, 3, 250, 300)).shape == (1, 3, 16, 19)


def test_training_and_evaluation_agree(model):
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        before = model.eval().forward_maps(x)
        after = model.train().forward_maps(x)
    model.eval()
    torch.testing.assert_close(before, after)


def test_logits_are_the_mean_of_the_maps(model):
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(x), model.forward_maps(x).mean(dim=(2, 3)))


def test_every_parameter_gets_a_gradient(model):
    model.zero_grad()
    (model.forward_maps(torch.randn(1, 3, 336, 224)) ** 2).sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
    model.zero_grad()
    assert not without


def test_cam(model):
    photo = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)
    cams = model.cam(photo, ["two"])
    assert cams.shape == (1, 3, 90, 120)
    assert cams.dtype == torch.float32
    assert not cams[:, [0, 2]].any()
    assert cams.min() >= 0
    assert 0.99 < cams[:, 1].max() <= 1


def test_save_and_load_give_the_same_model(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = crt.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert again.config == model.config
    state = model.state_dict()
    assert again.state_dict().keys() == state.keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_another_tile_resamples_the_position_embedding(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = crt.create_model(f"local-dir:{tmp_path}", pretrained=True, tile=160, stride=80)
    with torch.no_grad():
        assert again.forward_maps(torch.randn(1, 3, 160, 160)).shape == (1, 3, 10, 10)


def test_timm_reads_its_data_config(model):
    config = resolve_model_data_config(model)
    assert config["input_size"] == (3, 224, 224)
    torch.testing.assert_close(torch.tensor(config["mean"]), model.mean.flatten())
    torch.testing.assert_close(torch.tensor(config["std"]), model.std.flatten())


# torch 2.2 cannot trace properties of named tuples, nor what segmentation_models_pytorch asks of the compiler.
compilers = pytest.mark.skipif(torch.__version__.startswith("2.2."), reason="not on torch 2.2")


@compilers
def test_export_and_compile(model):
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = model.forward_maps(x).mean(dim=(2, 3))
        exported = torch.export.export(model, (x,)).module()
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


SMALL = "mobilenetv3_small_050"
NETWORKS = {
    "BoundaryNet": lambda: BoundaryNet(SMALL, boundary_width=8, displacement_width=8),
    "SegmentationNet": lambda: SegmentationNet("unet", f"tu-{SMALL}", num_classes=2, class_names=["one", "two"]),
}


@pytest.fixture(params=NETWORKS, scope="module")
def network(request):
    if request.param == "SegmentationNet":
        pytest.importorskip("segmentation_models_pytorch", reason="needs the extra `segment`")
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval()


def outputs(network, x):
    """Everything that a network computes on normalized floats, as a tuple."""
    return tuple(network.forward_maps(x)) if isinstance(network, BoundaryNet) else (network(x),)


@torch.no_grad()
def test_shapes_of_networks(network):
    shapes = [tuple(found.shape) for found in outputs(network, torch.randn(2, 3, 70, 90))]
    boundary = [(2, 1, 18, 23), (2, 2, 18, 23)]
    assert shapes == (boundary if isinstance(network, BoundaryNet) else [(2, 3, 70, 90)])


def test_every_parameter_of_a_network_that_trains_gets_a_gradient(network):
    network.zero_grad()
    sum((found**2).sum() for found in outputs(network.train(), torch.randn(2, 3, 64, 64))).backward()
    without = [
        name for name, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    network.zero_grad()
    network.eval()
    assert not without


def test_a_saved_network_is_the_same(network, tmp_path):
    network.save_pretrained(tmp_path)
    again = type(network).from_pretrained(tmp_path)
    assert again.config == network.config and not again.training
    state = again.state_dict()
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


class _Outputs(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return outputs(self.network, x)


@compilers
def test_export_of_networks(network):
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        exported = torch.export.export(_Outputs(network), (x,)).module()
        for found, wanted in zip(exported(x), outputs(network, x), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
