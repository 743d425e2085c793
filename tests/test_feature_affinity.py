"""Feature affinity against loops over patches; the registry's names, addresses and warnings."""

import logging

import pytest
import torch

import crt.cam.spread
from crt.cam.spread import spread
from crt.cam.tiling import cut
from crt.models import CRT, BoundaryNet
from crt.refine import RandomWalk, create_refiner, registry
from crt.refine.affinity import FeatureAffinity
from crt.refine.registry import Refiners, _split

from .conftest import TINY


def slow(maps, features, power, rounds):
    """Oracle: patch by patch, in float64."""
    count = len(features)
    for _ in range(rounds):
        out = maps.clone().double()
        for i in range(count):
            cosines = [torch.cosine_similarity(features[i].double(), features[j].double(), dim=0) for j in range(count)]
            weights = torch.stack([cosine.clamp(min=0) ** power for cosine in cosines])
            out[:, i] = (weights * maps.double()).sum(dim=1) / weights.sum()
        maps = out
    return maps


@pytest.mark.parametrize(("power", "rounds"), [(4, 1), (1, 2), (0.5, 3)])
@pytest.mark.parametrize("cells", [1, 40, 2**24])
def test_spreading_equals_the_oracle(monkeypatch, power, rounds, cells):
    monkeypatch.setattr(crt.cam.spread, "CELLS", cells)
    maps, features = torch.rand(3, 15), torch.randn(15, 6)
    wanted = slow(maps, features, power, rounds).float()
    torch.testing.assert_close(spread(maps, features, power=power, rounds=rounds), wanted, rtol=1e-5, atol=1e-6)


def test_patches_without_features_and_other_dtypes():
    features = torch.zeros(4, 3)
    features[0, 0] = 1
    assert torch.isfinite(spread(torch.rand(2, 4), features)).all()
    assert spread(torch.rand(2, 4).half(), features.half()).dtype == torch.float16
    assert spread(torch.rand(0, 4), features).shape == (0, 4)


def test_one_photo_of_one_tile_equals_the_oracle(tiny):
    tiny.head.weight.requires_grad_(False)
    image, cam = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8), torch.rand(1, 2, 4, 4)
    with torch.no_grad():
        tokens = tiny.forward_features((image / 255 - tiny.mean) / tiny.std)[0, tiny.prefix :]
    wanted = slow(cam[0].flatten(1), tokens, 4, 1).float().view(1, 2, 4, 4)
    torch.testing.assert_close(FeatureAffinity(tiny)(image, cam), wanted, rtol=1e-4, atol=1e-5)


def test_patches_of_different_tiles_see_each_other(tiny):
    """96 x 160 pixels are several tiles: the features are averaged where they overlap, and all patches count."""
    photo = torch.randn(3, 96, 160)
    features = FeatureAffinity(tiny).features(photo)
    assert features.shape == (32, 6, 10)
    with torch.no_grad():
        first = tiny.forward_features(cut(photo[None], 64, 32)[:1])[0, tiny.prefix :]
    torch.testing.assert_close(features[:, :2, :2].flatten(1).T, first[[0, 1, 4, 5]])
    cam = torch.zeros(1, 1, 6, 10)
    cam[..., 0, 0] = 1
    image = (photo * tiny.std + tiny.mean).clamp(0, 1)[None]
    assert FeatureAffinity(tiny, power=0.1)(image, cam)[0, 0, -1].max() > 0


def test_a_model_that_sees_whole_photos_gives_their_whole_features():
    model, photo = CRT("vit_tiny_patch16_224", num_classes=2, whole=True, **TINY).eval(), torch.randn(3, 96, 160)
    with torch.no_grad():
        tokens = model.forward_features(photo[None])[0, model.prefix :]
    torch.testing.assert_close(FeatureAffinity(model).features(photo).flatten(1).T, tokens)


@pytest.mark.parametrize("size", [(100, 150), (20, 30), (1, 1), (64, 700)])
def test_a_flat_map_stays_and_no_value_leaves_the_range(tiny, size):
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    cam = torch.stack([torch.full(size, 0.7), torch.rand(size), torch.zeros(size)]).expand(2, -1, -1, -1)
    refined = FeatureAffinity(tiny, rounds=2, max_side=320)(image, cam)
    assert refined.shape == cam.shape and refined.dtype == cam.dtype
    torch.testing.assert_close(refined[:, 0], cam[:, 0])
    assert not refined[:, 2].any() and refined.min() >= 0 and refined.max() <= 1
    assert FeatureAffinity(tiny)(image, cam[:, :0]).shape == (2, 0, *size)
    assert FeatureAffinity(tiny)(image, cam.half()).dtype == torch.float16


@pytest.mark.parametrize("name", ["affinity", "attention", "pamr+affinity"])
def test_the_users_model_is_left_as_it_was(tiny, photo, name):
    tiny.train()
    tiny.backbone.blocks[1].eval()
    modes = [module.training for module in tiny.modules()]
    refiner = create_refiner(name, model=tiny)
    refiner(photo[None], torch.rand(1, 1, 100, 150))
    refiner.train()
    refiner.eval()
    refiner.to(torch.float64)
    assert [module.training for module in tiny.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.modules())
    assert all(p.grad is None and p.requires_grad and p.dtype == torch.float32 for p in tiny.parameters())
    assert not refiner.state_dict()


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_any_transformer_by_name(photo, backbone):
    model = CRT(backbone, num_classes=2, num_passes=2, **TINY).to(torch.bfloat16)
    refined = create_refiner("affinity", model=model)(photo[None], torch.rand(1, 2, 100, 150))
    assert refined.shape == (1, 2, 100, 150) and refined.dtype == torch.float32
    with pytest.raises(ValueError, match="needs the model"):
        create_refiner("affinity")


def test_what_is_wrong_is_named(tiny):
    for arguments in ({"power": 0}, {"rounds": 0}, {"max_side": 0}):
        with pytest.raises(ValueError, match="power must be above 0, rounds and max_side at least 1"):
            FeatureAffinity(tiny, **arguments)
    with pytest.raises(ValueError, match=r"unknown refiner 'affinty'. Did you mean 'affinity'"):
        create_refiner("affinty", model=tiny)
    with pytest.raises(ValueError, match=r"unknown refiner '\\x1b"):
        create_refiner("\x1b[31m")


def test_a_new_refiner_is_one_line_of_the_registry(monkeypatch):
    monkeypatch.setitem(registry._BUILDERS, "nothing", lambda model: torch.nn.Identity())
    assert isinstance(create_refiner("nothing"), torch.nn.Identity)
    assert isinstance(create_refiner("pamr+nothing")[1], torch.nn.Identity)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("pamr", ["pamr"]),
        ("pamr+crf", ["pamr", "crf"]),
        ("local-dir:run+2/model", ["local-dir:run+2/model"]),
        ("local-dir:run+2/model+pamr+crf", ["local-dir:run+2/model", "pamr", "crf"]),
        ("pamr+local-dir:a+b+local-dir:c", ["pamr", "local-dir:a+b", "local-dir:c"]),
        ("local-dir:there+pamr", ["local-dir:there+pamr"]),
        ("local-dir:there+pamr+pamr", ["local-dir:there+pamr", "pamr"]),
        ("local-dir:pamrs+pamrs", ["local-dir:pamrs+pamrs"]),
        ("hf-hub:org/name@v1+pamr", ["hf-hub:org/name@v1", "pamr"]),
        ("pamr+", ["pamr", ""]),
    ],
)
def test_names_joined_by_plus(tmp_path, monkeypatch, name, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there+pamr").mkdir()
    assert _split(name) == parts


def test_weights_are_random_only_with_a_warning(tmp_path, caplog):
    torch.manual_seed(1)
    net = BoundaryNet("mobilenetv3_small_050", boundary_width=8, displacement_width=8)
    folder = tmp_path / "my+net"
    net.save_pretrained(folder)
    with caplog.at_level(logging.WARNING):
        trained = create_refiner(f"local-dir:{folder}+pamr", pretrained=True)
        assert isinstance(trained, Refiners) and isinstance(trained[0], RandomWalk) and not caplog.records
        torch.testing.assert_close(trained[0].boundary.state_dict(), net.state_dict())
        other = create_refiner(f"local-dir:{folder}")
    assert "random weights; pass pretrained=True" in caplog.text and other.boundary.config == net.config
    assert not torch.equal(other.boundary.boundary_head.last.weight, net.boundary_head.last.weight)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        create_refiner("irn_lite0")
    assert "irn_lite0: built with random weights" in caplog.text
