"""Attention affinity against full matrices written out, tile by tile."""

import pytest
import torch

from crt.cam.attention import patch_attention
from crt.cam.tiling import cut, merge
from crt.models import CRT
from crt.refine import create_refiner
from crt.refine.attention import AttentionAffinity

from .conftest import TINY


def matrices(model, tiles):
    """Oracle: every block's attention of every pass between patches, mean over the heads, one list entry a block."""
    vit, found = model.backbone, [[] for _ in model.backbone.blocks]

    def blocks(x):
        for number, block in enumerate(vit.blocks):
            a, y = block.attn, block.norm1(x)
            b, n, d = y.shape
            q, k, _ = a.qkv(y).reshape(b, n, 3, a.num_heads, d // a.num_heads).permute(2, 0, 3, 1, 4)
            scores = a.q_norm(q) @ a.k_norm(k).transpose(-2, -1) / (d // a.num_heads) ** 0.5
            found[number].append(scores.softmax(dim=-1).mean(dim=1)[:, model.prefix :, model.prefix :])
            x = block(x)
        return x

    x = vit._pos_embed(vit.patch_embed(tiles))
    for _ in range(max(model.num_passes, 1)):
        x = x + blocks(x) if model.num_passes else blocks(x)
    return found


def sharp(num_passes=0, backbone="vit_tiny_patch16_224"):
    """A model whose attention is far from flat."""
    model = CRT(backbone, num_classes=2, num_passes=num_passes, **TINY).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("num_passes", [0, 2])
@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
@torch.no_grad()
def test_the_sum_equals_the_full_matrices(num_passes, backbone):
    model, tiles = sharp(num_passes, backbone), torch.randn(3, 3, 64, 64)
    found = matrices(model, tiles)
    with patch_attention([block.attn for block in model.backbone.blocks], model.prefix) as attention:
        model.forward_features(tiles)
    assert attention.calls == 2 * max(num_passes, 1)
    wanted = torch.stack([matrix for own in found for matrix in own]).mean(dim=0)
    torch.testing.assert_close(attention.mean(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("blocks", "power"), [([0, 1], 1), ([1], 2), ([-2], 0.5)])
@pytest.mark.parametrize("size", [(96, 128), (48, 80)])
@torch.no_grad()
def test_refined_maps_equal_a_loop_over_tiles_and_patches(blocks, power, size):
    """(48, 80) is less than a tile high: what lies beyond it takes no part."""
    model = sharp(num_passes=1)
    image, (h, w) = torch.rand(1, 3, *size), (size[0] // 16, size[1] // 16)
    cam = torch.rand(1, 2, h, w)
    x = (image - model.mean) / model.std
    tiles, inside = cut(x, 64, 32), cut(torch.ones(1, 1, h, w), 4, 2).flatten(1)
    own, found = cut(cam, 4, 2).flatten(2), matrices(model, tiles)
    affinity = torch.stack([m for block in blocks for m in found[block]]).mean(dim=0) ** power
    out = torch.zeros(len(tiles), 2, 16)
    for t in range(len(tiles)):
        for i in range(16):
            weights = affinity[t, i] * inside[t]
            for k in range(2):
                out[t, k, i] = (weights * own[t, k]).sum() / weights.sum()
    wanted = merge(out.view(-1, 2, 4, 4), (h, w), 4, 2)
    refined = AttentionAffinity(model, blocks, power)(image, cam)
    torch.testing.assert_close(refined, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_flat_map_stays_and_no_value_leaves_the_range(tiny, photo):
    refiner = AttentionAffinity(tiny)
    assert refiner.blocks == [0]
    cam = torch.stack([torch.full((100, 150), 0.7), torch.rand(100, 150), torch.zeros(100, 150)])[None]
    refined = refiner(photo[None], cam)
    assert refined.shape == cam.shape and refined.dtype == cam.dtype
    torch.testing.assert_close(refined[:, 0], cam[:, 0])
    assert not refined[:, 2].any() and refined.min() >= 0 and refined.max() <= 1
    assert refined[0, 1].std() < cam[0, 1].std()
    assert refiner(photo[None], cam[:, :0]).shape == (1, 0, 100, 150)
    assert refiner(photo[None].repeat(2, 1, 1, 1), cam.half().repeat(2, 1, 1, 1)).dtype == torch.float16


def test_the_model_is_left_as_it_was(tiny, photo):
    tiny.train()
    AttentionAffinity(tiny)(photo[None], torch.rand(1, 1, 100, 150))
    assert all(module.training for module in tiny.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in tiny.parameters())


@torch.no_grad()
def test_one_matrix_at_a_time(tiny):
    """The largest tensor that is made is one head's matrix, however many heads, blocks and passes there are."""
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.ndim >= 3 and out.shape[-1] == out.shape[-2] == 17:
                largest.append(out.numel())
            return out

    layers = [block.attn for block in tiny.backbone.blocks]
    with patch_attention(layers, tiny.prefix), Watch():
        tiny.forward_features(torch.randn(2, 3, 64, 64))
    assert largest and max(largest) == 2 * 17 * 17


def test_by_name(tiny, photo):
    cam = torch.rand(1, 2, 100, 150)
    refined = create_refiner("attention", model=tiny)(photo[None], cam)
    assert torch.equal(refined, AttentionAffinity(tiny)(photo[None], cam))
    with pytest.raises(ValueError, match="needs the model"):
        create_refiner("pamr+attention")


def test_what_is_wrong_is_named(tiny, photo):
    for blocks in ([], [2], [0, -3]):
        with pytest.raises(ValueError, match="blocks must be numbers from -2 to 1"):
            AttentionAffinity(tiny, blocks)
    for arguments in ({"power": 0}, {"max_side": 0}):
        with pytest.raises(ValueError, match="power must be above 0"):
            AttentionAffinity(tiny, **arguments)
    with pytest.raises(ValueError, match="a refiner takes images"):
        AttentionAffinity(tiny)(photo, torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match="no attention"), patch_attention([]) as attention:
        attention.mean()
