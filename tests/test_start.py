"""Starting from any plain ViT: another patch size, another grid, LayerScale."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import crt
from crt.models import CRT

from .conftest import TINY

DINOV2 = Path(__file__).parents[2] / "shared/data/weights/vit_small_patch14_dinov2.da2.fp16.safetensors"


def random_vit(patch=16, side=64, **arguments):
    """timm's ViT with weights that matter, LayerScale among them."""
    vit = timm.create_model(
        "vit_tiny_patch16_224", num_classes=3, img_size=side, patch_size=patch, **TINY["backbone_args"], **arguments
    ).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return vit


def small(**changes):
    return CRT("vit_tiny_patch16_224", num_classes=2, num_passes=0, **{**TINY, **changes}).eval()


@torch.no_grad()
@pytest.mark.parametrize("own", [{}, {"init_values": 0.5}])
def test_layer_scale_is_folded_exactly(own):
    vit, model = random_vit(init_values=0.1), small(backbone_args={**TINY["backbone_args"], **own})
    model.load_backbone(vit.state_dict(), "a ViT")
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.forward_features(x), vit.forward_features(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_model_with_layer_scale_takes_weights_without():
    vit, model = random_vit(), small(backbone_args={**TINY["backbone_args"], "init_values": 0.5})
    model.load_backbone(vit.state_dict(), "a ViT")
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.forward_features(x), vit.forward_features(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_another_patch_and_grid(tmp_path):
    """Patches of a constant colour embed as before; the position embedding is DINOv2's interpolation."""
    vit, model = random_vit(patch=14, side=14 * 6, init_values=0.1), small()
    state = {**vit.state_dict(), "mask_token": torch.zeros(1, 32)}
    save_file(state, tmp_path / "vit.safetensors")
    model.load_backbone(load_file(tmp_path / "vit.safetensors"), "a ViT")
    flat = torch.full((1, 3, 64, 64), 0.7)
    expected = vit.patch_embed(flat.new_full((1, 3, 84, 84), 0.7))[0, 0]
    torch.testing.assert_close(model.backbone.patch_embed(flat)[0, 0], expected, rtol=1e-3, atol=1e-3)
    grid = vit.pos_embed[:, 1:].reshape(1, 6, 6, 32).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (4, 4), mode="bicubic", align_corners=False)
    torch.testing.assert_close(model.backbone.pos_embed[:, 1:], grid.flatten(2).transpose(1, 2))
    torch.testing.assert_close(model.backbone.pos_embed[:, 0], vit.pos_embed[:, 0])


def test_the_head_stays_and_what_does_not_fit_is_named(tmp_path):
    model = small()
    head = model.head.weight.clone()
    model.load_backbone(random_vit().state_dict(), "a ViT")
    assert torch.equal(model.head.weight, head)
    with pytest.raises(ValueError, match=r"a ViT do not fit.*cls_token"):
        small(backbone_args={**TINY["backbone_args"], "embed_dim": 64}).load_backbone(
            random_vit().state_dict(), "a ViT"
        )
    state = random_vit().state_dict()
    with pytest.raises(ValueError, match="position embedding of 16 tokens"):
        model.load_backbone({**state, "pos_embed": state["pos_embed"][:, 1:]}, "a ViT")


@torch.no_grad()
@pytest.mark.skipif(not DINOV2.exists(), reason="the DINOv2 weights are not part of the repository (../shared)")
def test_dinov2_starts_the_papers_network():
    """At its own patch and grid the features are timm's; patch 16 keeps the norm of the class token."""
    model = crt.create_model(
        "crt_vit_s16", backbone_checkpoint=DINOV2, num_passes=0, backbone_args={"patch_size": 14}, tile=518, stride=518
    )
    state = load_file(DINOV2)
    vit = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=518).eval()
    vit.load_state_dict(state)
    x = torch.randn(1, 3, 518, 518)
    torch.testing.assert_close(model.forward_features(x), vit.forward_features(x), rtol=1e-4, atol=1e-4)
    model = crt.create_model("crt_vit_s16", backbone_checkpoint=DINOV2, num_passes=0)
    assert (model.config["mean"], model.config["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert (model.patch, model.tile) == (16, 224)
    photo = torch.nn.functional.interpolate(torch.randn(1, 3, 8, 8), (224, 224), mode="bicubic")
    small_photo = torch.nn.functional.interpolate(photo, (196, 196), mode="bicubic", antialias=True)
    vit = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=196).eval()
    vit.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(state, vit))
    ours, theirs = model.forward_features(photo)[:, 0], vit.forward_features(small_photo)[:, 0]
    assert torch.cosine_similarity(ours, theirs).item() > 0.9
