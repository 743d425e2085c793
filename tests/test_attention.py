"""The class token's attention equals the row of the full matrix, computed here by hand."""

import pytest
import timm
import torch
from torch import nn

from crt.cam.attention import class_attention, evaluating, patch_attention
from crt.models import CRT

from .conftest import TINY


def full_rows(model: CRT, tiles: torch.Tensor) -> list[torch.Tensor]:
    """Oracle: every block's whole attention matrix, written out, and row 0 of its mean over the heads."""
    vit = model.backbone
    rows = []

    def blocks(x):
        for block in vit.blocks:
            a, y = block.attn, block.norm1(x)
            b, n, d = y.shape
            q, k, v = a.qkv(y).reshape(b, n, 3, a.num_heads, d // a.num_heads).permute(2, 0, 3, 1, 4)
            q, k = a.q_norm(q), a.k_norm(k)
            matrix = (q @ k.transpose(-2, -1) / (d // a.num_heads) ** 0.5).softmax(dim=-1)
            torch.testing.assert_close(matrix.sum(dim=-1), torch.ones(b, a.num_heads, n))
            rows.append(matrix.mean(dim=1)[:, 0])
            x = x + block.ls1(a.proj((matrix @ v).transpose(1, 2).reshape(b, n, d)))
            x = x + block.ls2(block.mlp(block.norm2(x)))
        return x

    x = vit._pos_embed(vit.patch_embed(tiles))
    if model.num_passes == 0:
        blocks(x)
    for _ in range(model.num_passes):
        x = x + blocks(x)
    return rows


@pytest.mark.parametrize("num_passes", [0, 1, 3])
@pytest.mark.parametrize(
    ("backbone", "more"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"qk_norm": True}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_small_patch32_224", {"reg_tokens": 3}),
    ],
)
@torch.no_grad()
def test_equals_the_full_matrix(backbone, more, num_passes):
    arguments = {**TINY, "backbone_args": {**TINY["backbone_args"], **more}}
    model = CRT(backbone, num_classes=2, num_passes=num_passes, **arguments).eval()
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    tiles = torch.randn(3, 3, 64, 64)
    expected = full_rows(model, tiles)
    _, attention, *_ = model.tile_maps(tiles)
    assert len(expected) == max(num_passes, 1) * 2
    whole = torch.stack(expected).sum(dim=0)[:, model.prefix :]
    torch.testing.assert_close(attention.flatten(1), whole, rtol=1e-4, atol=1e-6)


def test_rows_over_all_tokens_sum_to_one(tiny):
    for block in tiny.backbone.blocks:
        row = class_attention(block, torch.randn(2, 17, 32), prefix=0)
        torch.testing.assert_close(row.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
@torch.no_grad()
def test_one_block_with_large_weights(qkv_bias, qk_norm):
    arguments = {**TINY, "backbone_args": {**TINY["backbone_args"], "qkv_bias": qkv_bias, "qk_norm": qk_norm}}
    block = CRT("vit_tiny_patch16_224", **arguments).eval().backbone.blocks[0]
    for parameter in block.parameters():
        parameter.add_(torch.randn_like(parameter))
    x, a = torch.randn(2, 17, 32), block.attn
    q, k, _ = a.qkv(block.norm1(x)).reshape(2, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
    matrix = (a.q_norm(q) @ a.k_norm(k).transpose(-2, -1) / 4).softmax(dim=-1)
    torch.testing.assert_close(class_attention(block, x), matrix.mean(dim=1)[:, 0, 1:], rtol=1e-4, atol=1e-6)


def test_hooks_are_gone_even_after_an_error(tiny):
    layers = [block.attn for block in tiny.backbone.blocks]
    with pytest.raises(RuntimeError, match="stop"), patch_attention(layers):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.modules())


def test_attention_stays_fused(tiny, monkeypatch):
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: (calls.append(1), fused(*a, **k))[1]
    )
    tiny.tile_maps(torch.randn(1, 3, 64, 64))
    assert len(calls) == 2 * tiny.num_passes


def test_a_layer_without_qkv_is_refused():
    with pytest.raises(TypeError, match="qkv"):
        class_attention(torch.nn.Linear(2, 2), torch.zeros(1, 2, 2))
    with pytest.raises(TypeError, match="qkv"), patch_attention([torch.nn.Linear(2, 2)]):
        pass


def test_a_cnn_is_no_backbone():
    with pytest.raises((ValueError, TypeError)):
        CRT("resnet18", num_classes=2)
    assert timm.is_model("resnet18")


class LoRA(nn.Linear):
    """As loralib's: a linear layer with a low-rank addition that its ``weight`` does not show."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features)
        self.load_state_dict(base.state_dict())
        self.add = nn.Sequential(nn.Linear(base.in_features, 4), nn.Linear(4, base.out_features))

    def forward(self, x):
        return super().forward(x) + self.add(x)


class Wrapped(nn.Module):
    """As peft's: a module around the linear layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.layer = LoRA(base)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("adapter", [LoRA, Wrapped])
@pytest.mark.parametrize("qk_norm", [True, False])
@torch.no_grad()
def test_an_adapter_on_qkv_counts(adapter, qk_norm):
    arguments = {**TINY, "backbone_args": {**TINY["backbone_args"], "qk_norm": qk_norm}}
    model = CRT("vit_tiny_patch16_224", num_classes=2, **arguments).eval()
    before = model.tile_maps(tiles := torch.randn(2, 3, 64, 64))[1]
    for block in model.backbone.blocks:
        block.attn.qkv = adapter(block.attn.qkv)
        for parameter in block.attn.qkv.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    expected = torch.stack(full_rows(model, tiles)).sum(dim=0)[:, model.prefix :]
    attention = model.tile_maps(tiles)[1].flatten(1)
    torch.testing.assert_close(attention, expected, rtol=1e-4, atol=1e-6)
    assert (attention - before.flatten(1)).abs().max() > 1e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.tile_maps(tiles)


def test_gradient_checkpointing_is_honoured(tiny):
    """Blocks are computed again in the backward pass; logits and gradients stay."""
    x, calls = torch.randn(1, 3, 64, 64), []
    tiny.backbone.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    found = []
    for enable in (False, True):
        tiny.backbone.set_grad_checkpointing(enable)
        calls.clear()
        tiny.zero_grad()
        logits = tiny(x)
        logits.sum().backward()
        found.append((logits.detach(), tiny.backbone.blocks[0].mlp.fc1.weight.grad.clone()))
        assert len(calls) == (2 if enable else 1) * tiny.num_passes
    torch.testing.assert_close(found[0], found[1])
    calls.clear()
    tiny.tile_maps(x)
    assert len(calls) == tiny.num_passes


def test_evaluation_mode_of_several_threads():
    """The first block to end leaves the module in evaluation mode for those that still run."""
    module = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    first, second = evaluating(module), evaluating(module[0])
    with evaluating(module):
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
    assert not module[0].training and module.training
    second.__exit__(None, None, None)
    assert [part.training for part in module.modules()] == [True, True, False]
    with pytest.raises(RuntimeError), evaluating(module):
        raise RuntimeError
    assert [part.training for part in module.modules()] == [True, True, False]
