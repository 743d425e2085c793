"""The boundary network and its losses: against obvious loops, and what a trained one must keep to."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

import crt
from crt.cam.paths import displacements, line, path_affinity
from crt.losses import boundary_loss
from crt.losses.boundary import affinity_loss, displacement_loss, pair_kinds
from crt.models import BoundaryNet
from crt.refine import RandomWalk, create_refiner

TINY = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return BoundaryNet(TINY, boundary_width=8, displacement_width=8).eval()


def pairs(labels, radius):
    """Every pair of known cells: photo, first and second cell, kind."""
    b, h, w = labels.shape
    for i in range(b):
        for y in range(h):
            for x in range(w):
                for dy, dx in displacements(radius):
                    if y + dy < h and 0 <= x + dx < w:
                        one, other = int(labels[i, y, x]), int(labels[i, y + dy, x + dx])
                        if 255 not in (one, other):
                            kind = "different" if one != other else "foreground" if one else "background"
                            yield i, (y, x), (y + dy, x + dx), kind


def example(h=6, w=7, dtype=torch.float64):
    labels = torch.randint(0, 3, (2, h, w), dtype=torch.uint8)
    labels[torch.rand(2, h, w) < 0.2] = 255
    return torch.rand(2, 1, h, w, dtype=dtype), 3 * torch.randn(2, 2, h, w, dtype=dtype), labels


@pytest.mark.parametrize("radius", [2, 4])
def test_losses_equal_the_obvious_loops(radius):
    boundary, displacement, labels = example()
    crossed, ways = ({kind: [] for kind in ("background", "foreground", "different")} for _ in range(2))
    for i, (y, x), (v, u), kind in pairs(labels, radius):
        path = [boundary[i, 0, y + a, x + b] for a, b in line(v - y, u - x)]
        affinity = 1 - max(path)
        crossed[kind].append(-math.log((1 - affinity if kind == "different" else affinity) + 1e-5))
        wanted = torch.tensor([v - y, u - x]) if kind == "foreground" else torch.zeros(2)
        ways[kind].append(float((displacement[i, :, y, x] - displacement[i, :, v, u] - wanted).abs().mean()))
    mean = {kind: sum(values) / len(values) for kind, values in crossed.items()}
    losses = boundary_loss(boundary, displacement, labels, radius=radius)
    wanted = mean["background"] / 4 + mean["foreground"] / 4 + mean["different"] / 2
    assert float(losses.affinity) == pytest.approx(wanted)
    wanted = sum(sum(ways[kind]) / len(ways[kind]) for kind in ("background", "foreground")) / 2
    assert float(losses.displacement) == pytest.approx(wanted)
    assert float(losses.total) == pytest.approx(float(losses.affinity + losses.displacement))


def test_kinds_equal_the_obvious_loop():
    *_, labels = example()
    kinds, radius = pair_kinds(labels, 3), 3
    wanted = {name: torch.zeros_like(kind) for name, kind in kinds._asdict().items()}
    for i, (y, x), (v, u), kind in pairs(labels, radius):
        wanted[kind][i, displacements(radius).index((v - y, u - x)), y, x] = True
    for name, kind in kinds._asdict().items():
        assert torch.equal(kind, wanted[name])


def test_right_maps_have_the_least_loss():
    labels = torch.zeros(1, 12, 16, dtype=torch.uint8)
    labels[:, :, 8:] = 1
    edge = torch.zeros(1, 1, 12, 16)
    edge[..., 7:9] = 1
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    middle = torch.stack([5.5 - rows, 11.5 - columns])[None]
    middle[..., :8] = 0
    right = boundary_loss(edge, middle, labels, radius=4)
    assert right.displacement == 0
    # Pairs inside one class that touch its edge cells are cut off by them: more than half of the optimum is there.
    assert right.affinity < boundary_loss(edge.roll(4, -1), middle, labels, radius=4).affinity
    assert boundary_loss(edge, -middle, labels, radius=4).displacement > 1
    assert boundary_loss(edge, middle + 3.0, labels, radius=4).displacement < 1e-6  # only differences count


def test_a_kind_without_pairs_adds_nothing():
    nothing = torch.full((1, 5, 5), 255, dtype=torch.uint8)
    boundary, displacement = torch.rand(1, 1, 5, 5, requires_grad=True), torch.randn(1, 2, 5, 5, requires_grad=True)
    losses = boundary_loss(boundary, displacement, nothing)
    losses.total.backward()
    assert losses.total == 0 and not boundary.grad.any() and not displacement.grad.any()
    losses = boundary_loss(torch.zeros(1, 1, 5, 5), displacement, nothing * 0)
    assert losses.affinity.abs() < 1e-4 < losses.displacement


def test_losses_have_right_gradients():
    boundary, displacement, labels = example(4, 5)
    kinds = pair_kinds(labels, 3)
    boundary, displacement = boundary.requires_grad_(), displacement.requires_grad_()
    assert torch.autograd.gradcheck(lambda b: affinity_loss(path_affinity(b, 3), kinds), (boundary,))
    assert torch.autograd.gradcheck(lambda d: displacement_loss(d, kinds, 3), (displacement,))


def test_losses_name_what_does_not_fit():
    boundary, displacement, labels = example()
    for wrong in [(boundary[..., 1:], displacement, labels), (boundary, displacement[:, :1], labels)]:
        with pytest.raises(ValueError, match=r"displacement \(B, 2, h, w\)"):
            boundary_loss(*wrong)
    with pytest.raises(ValueError, match="integers"):
        boundary_loss(boundary, displacement, labels.float())


@pytest.mark.parametrize("size", [(64, 64), (61, 90), (5, 33)])
def test_shapes_and_ranges(net, size):
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    cells = (-(-size[0] // 4), -(-size[1] // 4))
    with torch.no_grad():
        boundary = net(image)
        maps = net.forward_maps(torch.randn(2, 3, *size))
    assert boundary.shape == maps.boundary.shape == (2, 1, *cells)
    assert maps.displacement.shape == (2, 2, *cells)
    assert boundary.min() >= 0 and boundary.max() <= 1
    torch.testing.assert_close(net(image.float() / 255), boundary)


def test_the_mirrored_photo_has_the_mirrored_boundary(net):
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(net(image.flip(-1)).flip(-1), net(image))
        x = (image / 255 - torch.tensor(net.config["mean"]).view(3, 1, 1)) / torch.tensor(net.config["std"]).view(
            3, 1, 1
        )
        pair = [net.forward_maps(x).boundary, net.forward_maps(x.flip(-1)).boundary.flip(-1)]
        torch.testing.assert_close(net(image), sum(pair) / 2)


def test_both_heads_learn_and_the_backbone_stays(net):
    net.train()
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    maps = net.forward_maps(torch.randn(2, 3, 64, 64))
    labels = torch.randint(0, 2, (2, 16, 16), dtype=torch.uint8)
    boundary_loss(maps.boundary, maps.displacement, labels, radius=3).total.backward()
    for name, parameter in net.named_parameters():
        if name.startswith("backbone."):
            assert parameter.grad is None and not parameter.requires_grad
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(torch.equal(value, before[name]) for name, value in net.backbone.state_dict().items())
    assert not any(module.training for module in net.backbone.modules()) and net.boundary_head.training
    net.zero_grad()
    net.eval()


def test_files_of_earlier_versions_are_loaded(net, tmp_path):
    """They held the mean displacement of the training photos."""
    net.save_pretrained(tmp_path)
    save_file({**net.state_dict(), "mean_shift": torch.ones(2)}, tmp_path / "model.safetensors")
    again = BoundaryNet.from_pretrained(tmp_path).state_dict()
    assert again.keys() == net.state_dict().keys() and "mean_shift" not in again
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in again.items())


def test_saved_and_loaded_as_a_refiner(net, tmp_path):
    net.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == net.config
    refiner = create_refiner(f"local-dir:{tmp_path}", pretrained=True)
    assert isinstance(refiner, RandomWalk) and not refiner.training
    image, cam = torch.randint(0, 256, (1, 3, 40, 52), dtype=torch.uint8), torch.rand(1, 2, 40, 52)
    with torch.no_grad():
        assert torch.equal(refiner.boundary(image), net(image))
        walked = refiner(image, cam)
        assert torch.equal(create_refiner(f"pamr+local-dir:{tmp_path}", pretrained=True)[1](image, cam), walked)
    assert walked.shape == cam.shape and walked.min() >= 0 and walked.max() <= 1


def test_large_photos_are_reduced(net):
    image, cam = torch.randint(0, 256, (1, 3, 80, 120), dtype=torch.uint8), torch.rand(1, 1, 80, 120)
    sizes = []
    refiner = RandomWalk(lambda x: (sizes.append(tuple(x.shape[-2:])), net(x))[1], steps=2, max_side=60)
    with torch.no_grad():
        assert refiner(image, cam).shape == cam.shape
        refiner(image[..., :40, :60], cam)
    assert sizes == [(40, 60)] * 2
    with pytest.raises(ValueError, match="at least 1 pixel"):
        RandomWalk(net, max_side=0)


def test_strict_loading_names_what_is_wrong(net, tmp_path):
    net.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**net.config, "boundary_width": 16}))
    with pytest.raises(ValueError, match="do not fit this BoundaryNet"):
        create_refiner(f"local-dir:{tmp_path}", pretrained=True)
    (tmp_path / "config.json").write_text(json.dumps({"num_classes": 20}))
    with pytest.raises(ValueError, match="no setting num_classes .unknown keys"):
        create_refiner(f"local-dir:{tmp_path}", pretrained=True)
    with pytest.raises(FileNotFoundError, match="no weights file or folder"):
        create_refiner(f"local-dir:{tmp_path / 'none'}", pretrained=True)


def test_irn_by_name():
    assert "irn_lite0" in crt.list_refiners()
    refiner = create_refiner("irn_lite0")
    assert refiner.boundary.config["backbone"] == "tf_efficientnet_lite0"
    with pytest.raises(ValueError, match="Did you mean 'irn_lite0'"):
        create_refiner("irn_lite")


def test_bundled_weights_find_the_rim_of_a_disc():
    y, x = torch.meshgrid(torch.arange(160), torch.arange(160), indexing="ij")
    distance = ((y - 80) ** 2 + (x - 80) ** 2).sqrt() - 45
    orange, blue = (torch.tensor(colour).view(3, 1, 1) for colour in ([200, 120, 60], [40, 90, 160]))
    image = torch.where(distance < 0, orange, blue).to(torch.uint8)[None]
    with torch.no_grad():
        boundary = create_refiner("irn_lite0", pretrained=True).boundary(image)[0, 0]
    cells = distance[2::4, 2::4]
    assert boundary[cells.abs() < 5].mean() > 0.1
    assert boundary[cells.abs() > 15].mean() < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boundary_width": 12}, "boundary_width must be a multiple of 8.*got 12"),
        ({"displacement_width": 0}, "displacement_width must be"),
        ({"backbone": "mobilenet_small"}, "Did you mean"),
        ({"backbone": "vit_tiny_patch16_224"}, "stride 4 and above|cannot be built"),
        ({"mean": [0.5]}, "three values"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BoundaryNet(**{"backbone": TINY, **arguments})


@pytest.mark.parametrize("image", [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.full((1, 3, 8, 8), 7.0)])
def test_wrong_images_are_named(net, image):
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)|in \[0, 1\]"):
        net(image)
