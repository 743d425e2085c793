"""Class attention: what the class token looks at, without any N x N matrix; patch attention, one such matrix at a time.

A CAM needs one row of each attention matrix.  ``class_attention`` computes it from a block's input, so the block itself
keeps its fused attention, memory stays linear in the tokens, and nothing stands in the way of a compiler.
``patch_attention`` sums up whole matrices, head by head and block by block, for who wants an affinity of patches.
This is the only file with hooks; they, and the evaluation mode they run in, last as long as a ``with`` block.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

__all__ = ["PatchAttention", "class_attention", "evaluating", "patch_attention"]


def class_attention(block: Any, x: Tensor, prefix: int = 1) -> Tensor:
    """The class token's attention over the patches in one block of a transformer: row 0 of softmax(q k^T / sqrt(d)).

    A head's scores are q_cls k^T = (q_cls W_k) y^T + q_cls b_k with y the input of its keys; the last term is the same
    for all tokens, and softmax ignores it.  So the keys are computed only where a norm follows them.

    Args:
        block: a block in timm's form: ``norm1`` before ``attn``, which has ``qkv``, ``num_heads``, ``scale``,
            ``q_norm`` and ``k_norm``.
        x: (B, N, D), the block's input.
        prefix: tokens before the patches; the first is the class token (2 for a distilled DeiT).

    Returns:
        (B, N - prefix) float32: the softmax over all tokens, averaged over the heads, without the prefix's columns.

    Raises:
        TypeError: a block without these layers.
    """
    attention: Any = getattr(block, "attn", None)
    if not isinstance(getattr(attention, "qkv", None), nn.Module) or not hasattr(block, "norm1"):
        raise TypeError(f"{type(block).__name__} has no `norm1` and `attn.qkv`; class attention needs timm's Block.")
    y, layer = block.norm1(x), attention.qkv
    with torch.autocast(x.device.type, enabled=False):  # it would round the scores
        if type(layer) is nn.Linear:
            q, keys = _weights_of_class_token(attention, y.float())
        else:  # an adapter (LoRA), a quantized layer: what it computes is known to itself alone
            dtypes = [p.dtype for p in layer.parameters() if p.is_floating_point()]
            qkv = layer(y.to(dtypes[0] if dtypes else y.dtype))
            q, keys, _ = rearrange(qkv, "b n (three h c) -> three b h n c", three=3, h=attention.num_heads)
            q, keys = attention.q_norm(q[:, :, 0]).float() * attention.scale, attention.k_norm(keys).float()
        scores = einsum(q, keys, "b h c, b h n c -> b h n" if keys.ndim == 4 else "b h c, b n c -> b h n")
        return torch.softmax(scores, dim=-1).mean(dim=1)[:, prefix:]


def _weights_of_class_token(attention: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    """What a plain linear layer scores tokens (B, N, D) by: a query (B, H, C), and the keys (B, H, N, C).

    Without a norm of the keys the query is taken to the tokens' own space, (B, H, D), and the tokens are the keys.
    """
    layer, heads = attention.qkv, attention.num_heads
    weight = rearrange(layer.weight.float(), "(three h c) d -> three h c d", three=3, h=heads)
    bias = 0 * weight[..., 0] if layer.bias is None else layer.bias.float().view(weight.shape[:-1])
    q = einsum(y[:, 0], weight[0], "b d, h c d -> b h c") + bias[0]
    q = attention.q_norm(q.to(layer.weight)).float() * attention.scale
    if isinstance(attention.k_norm, nn.Identity):
        return einsum(q, weight[1], "b h c, h c d -> b h d"), y
    k = einsum(y, weight[1], "b n d, h c d -> b h n c") + bias[1][:, None]
    return q, attention.k_norm(k.to(layer.weight)).float()


class PatchAttention:
    """The sum of the attention matrices of several calls, (T, N, N), and the number of calls."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.calls = 0

    def mean(self) -> Tensor:
        """(T, N, N), the mean over heads, blocks and passes: row i is what patch i attends to.

        Raises:
            ValueError: nothing was called.
        """
        if self.total is None:
            raise ValueError("no attention was collected: run the model inside the `with` block.")
        return self.total / self.calls


@contextmanager
def patch_attention(attentions: list[nn.Module], prefix: int = 1) -> Iterator[PatchAttention]:
    """Sums up the attention between patches from every call of the given layers.

    Args:
        attentions: attention layers in timm's form (``qkv``, ``num_heads``, ``scale``, ``q_norm``, ``k_norm``), of
            blocks that are not compiled.
        prefix: tokens before the patches.

    Yields:
        A sum to which every call adds softmax(q k^T / sqrt(d)), over all tokens and averaged over the heads, without
        the ``prefix`` rows and columns; so rows sum to less than one.  Beside it one matrix is held, of one head.

    Raises:
        TypeError: a layer without ``qkv``.
    """
    sums = PatchAttention()
    for attention in attentions:
        if not isinstance(getattr(attention, "qkv", None), nn.Module):
            raise TypeError(f"{type(attention).__name__} has no `qkv` layer; patch attention needs timm's Attention.")
    owner = threading.get_ident()
    attention_of: dict[Any, nn.Module] = {attention.qkv: attention for attention in attentions}

    def pass_on(layer: nn.Module, _inputs: Any, qkv: Tensor) -> None:
        if threading.get_ident() == owner:  # another thread may be running the same model
            _add_matrices(sums, attention_of[layer], qkv, prefix)

    handles = [layer.register_forward_hook(pass_on) for layer in attention_of]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def _add_matrices(sums: PatchAttention, attention: Any, qkv: Tensor, prefix: int) -> None:
    """Adds one call's matrices, head by head, in float32: each is made in place, and gone when the next is made."""
    q, k, _ = rearrange(qkv, "b n (three h d) -> three h b n d", three=3, h=attention.num_heads)
    q, k = attention.q_norm(q).float() * attention.scale, attention.k_norm(k).float().transpose(-2, -1)
    if sums.total is None:
        patches = qkv.shape[1] - prefix
        sums.total = q.new_zeros(qkv.shape[0], patches, patches)
    for queries, keys in zip(q, k, strict=True):
        with torch.autocast(qkv.device.type, enabled=False):
            matrix = queries @ keys
        matrix.sub_(matrix.amax(dim=-1, keepdim=True)).exp_()
        matrix.div_(matrix.sum(dim=-1, keepdim=True))
        sums.total.add_(matrix[:, prefix:, prefix:], alpha=1 / attention.num_heads)
    sums.calls += 1


_held: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # modules in training mode that are to evaluate
_holding = threading.Lock()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every submodule's own mode again afterwards.

    Several threads, and blocks within blocks, may hold one module: its mode returns when the last of them ends.
    """
    with _holding:
        parts = [part for part in module.modules() if part.training or part in _held]
        for part in parts:
            _held[part] = _held.get(part, 0) + 1
            part.training = False
    try:
        yield
    finally:
        with _holding:
            for part in parts:
                _held[part] -= 1
                if not _held[part]:
                    del _held[part]
                    part.training = True
