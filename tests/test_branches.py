"""The two branches over backbones of all kinds, the CNN branch, and both branches under one loss."""

import pytest
import torch
from torch.nn import functional as F

from crt.losses import dual_loss
from crt.losses.coupling import coupling_distance
from crt.models import CRT
from crt.models.cnn import CNNBranch
from crt.models.dual import DualBranch

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def cnn():
    return CNNBranch("tf_efficientnet_lite0", num_classes=5)


@pytest.mark.parametrize(
    ("name", "patch", "prefix"),
    [
        ("deit3_small_patch16_224", 16, 1),  # LayerScale, the class token has no position
        ("deit_tiny_distilled_patch16_224", 16, 2),
        ("vit_base_patch16_clip_224", 16, 1),  # a norm before the blocks
        ("vit_small_patch14_reg4_dinov2", 14, 5),
    ],
)
def test_any_plain_timm_vit(name, patch, prefix):
    """Maps of the labelled classes alone, on another patch and another number of tokens; all of it learns."""
    vit = CRT(name, num_classes=3, num_passes=1, tile=4 * patch, stride=2 * patch, backbone_args=SMALL)
    assert (vit.patch, vit.prefix) == (patch, prefix)
    cam = vit.cam(torch.randint(256, (3, 70, 90), dtype=torch.uint8), [[0, 2]], scales=(0.5, 1.0))
    assert cam.shape == (1, 3, 70, 90)
    assert cam.isfinite().all()
    assert cam[0, 1].eq(0).all()
    assert cam[0, 0].max() > 0.5
    DualBranch(vit, None).loss(torch.randn(1, 3, 4 * patch, 6 * patch), torch.ones(1, 3)).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vit.backbone.blocks.parameters() if p.ndim > 1)


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_r_s16_p8_224",  # a hybrid: patches of a CNN's features
        "vit_small_patch16_18x2_224",  # two attention layers side by side in a block
        "vit_base_patch16_siglip_224",  # no class token
        "swin_tiny_patch4_window7_224",
    ],
)
def test_other_transformers_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}' is not a plain ViT with a class token, such as"):
        CRT(name, num_classes=3, tile=64, stride=32, backbone_args=SMALL)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_050", "tf_efficientnet_lite0", "convnext_atto", "regnetx_002"]
)
def test_any_timm_cnn(name):
    branch = CNNBranch(name, num_classes=3).eval()
    with torch.no_grad():
        assert branch.forward_maps(torch.randn(1, 3, 96, 112)).shape == (1, 3, 6, 7)
        assert branch(torch.randn(1, 3, 64, 64)).shape == (1, 3)


def test_what_leads_to_stride_8_is_frozen_and_the_rest_learns(cnn):
    cnn.zero_grad()
    cnn.forward_maps(torch.randn(1, 3, 64, 64)).sum().backward()
    frozen = {name for name, p in cnn.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {"conv_stem", "bn1", "blocks"}
    assert {name.split(".")[2] for name in frozen if ".blocks." in name} == {"0", "1", "2"}
    trained = [p for p in cnn.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None for p in trained)
    assert all(p.requires_grad for p in CNNBranch("resnet18", frozen_stride=0).parameters())


def test_an_unknown_stride_is_named():
    with pytest.raises(ValueError, match=r"\[2, 4, 8, 16, 16\], not 7"):
        CNNBranch("resnet18", frozen_stride=7)


def test_batch_norm_stays_frozen_in_training_mode(cnn):
    cnn.eval()
    statistics = {name: value.clone() for name, value in cnn.named_buffers()}
    assert cnn.train() is cnn
    assert cnn.training
    assert cnn.head.training
    cnn.forward_maps(torch.randn(2, 3, 64, 64))
    for name, value in cnn.named_buffers():
        assert torch.equal(value, statistics[name]), name
    assert not cnn.eval().training


def test_loss_is_the_papers(tiny, cnn):
    model = DualBranch(tiny, cnn)
    x, targets = torch.randn(2, 3, 96, 96), torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0, 0, 0]])
    vit, other = tiny.forward_maps(x), cnn.forward_maps(x)
    up = [F.interpolate(m, (96, 96), mode="bilinear", align_corners=True) for m in (vit, other)]
    distance = (up[0] - up[1]).abs().mean()
    margin = [F.multilabel_soft_margin_loss(m.mean(dim=(2, 3)), targets) for m in (vit, other)]
    losses = model.loss(x, targets, coupling=0.3)
    torch.testing.assert_close(losses.total, margin[0] + margin[1] + 0.3 * distance)
    torch.testing.assert_close(losses.coupling, distance)
    independent = model.loss(x, targets, coupling=0.0)
    torch.testing.assert_close(independent.total, margin[0] + margin[1])


def test_each_branch_sees_its_own_normalisation(tiny):
    cnn = CNNBranch("resnet18", num_classes=5).eval()
    model = DualBranch(tiny, cnn)
    pixels = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (cnn.mean, cnn.std))
    assert list(cnn.mean) != tiny.config["mean"]
    with torch.no_grad():
        _, maps = model((pixels - tiny.mean) / tiny.std)
        torch.testing.assert_close(maps, cnn.forward_maps((pixels - mean) / std), rtol=1e-3, atol=1e-4)


def test_unknown_cnns_are_named():
    unfit = {"resnet5": "resnet50", "vit_tiny_patch16_224": "not 8", "botnet26t_256": "one size only"}
    for name, message in unfit.items():
        with pytest.raises(ValueError, match=message):
            CNNBranch(name)
    with pytest.raises(ValueError, match="none of 64"):
        CNNBranch("vgg11", output_stride=64)


@pytest.mark.parametrize("name", ["vgg11", "densenet121", "ghostnet_050", "hgnetv2_b0"])
def test_cnns_that_cannot_be_dilated_end_at_their_own_features(name):
    cnn = CNNBranch(name, num_classes=3)
    maps = cnn.forward_maps(torch.zeros(1, 3, 64, 96))
    assert maps.shape == (1, 3, 4, 6)
    maps.sum().backward()
    assert all(p.grad is not None for p in cnn.parameters() if p.requires_grad)


def test_bool_targets(tiny):
    x, targets = torch.randn(1, 3, 64, 64), torch.tensor([[True, False, False, True, False]])
    model = DualBranch(tiny, None)
    torch.testing.assert_close(model.loss(x, targets).total, model.loss(x, targets.float()).total)


def test_coupling_works_across_grids():
    a, b = torch.randn(1, 2, 6, 6), torch.randn(1, 2, 3, 3)
    up = F.interpolate(b, (24, 24), mode="bilinear", align_corners=True)
    expected = (F.interpolate(a, (24, 24), mode="bilinear", align_corners=True) - up).abs().mean()
    torch.testing.assert_close(coupling_distance(a, b, (24, 24)), expected)


def test_coupling_pulls_both_branches(tiny, cnn):
    model = DualBranch(tiny, cnn)
    model.zero_grad()
    model.loss(torch.randn(1, 3, 64, 64), torch.ones(1, 5), coupling=1.0).coupling.backward()
    assert tiny.head.weight.grad.abs().sum() > 0
    assert cnn.head.weight.grad.abs().sum() > 0


def test_without_a_cnn(tiny):
    losses = DualBranch(tiny, None).loss(torch.randn(1, 3, 64, 64), torch.ones(1, 5))
    assert losses.total == losses.vit
    assert losses.coupling == 0


def test_single_labels_are_classified_by_cross_entropy():
    maps, cnn_maps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    targets = torch.tensor([[0.0, 1, 0], [0, 0, 1]])
    losses = dual_loss(maps, cnn_maps, targets, (32, 32), coupling=0.0, single_label=True)
    expected = -torch.log_softmax(maps.mean(dim=(-2, -1)), dim=1)[[0, 1], [1, 2]].mean()
    torch.testing.assert_close(losses.vit, expected)
    expected = -torch.log_softmax(cnn_maps.mean(dim=(-2, -1)), dim=1)[[0, 1], [1, 2]].mean()
    torch.testing.assert_close(losses.cnn, expected)
