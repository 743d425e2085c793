"""Class attention: what the class token looks at, without any N x N matrix; patch attention, one such matrix at a time.

A CAM needs one row of each attention matrix, softmax(q_cls k^T / sqrt(d)).  It is computed here from the output of
each block's ``qkv`` layer, so the block itself keeps its fused attention and memory stays linear in the tokens.
``patch_attention`` sums up whole matrices, head by head and block by block, for who wants an affinity of patches.
This is the only file with hooks; they, and the evaluation mode they run in, last as long as a ``with`` block.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

__all__ = ["PatchAttention", "class_attention", "evaluating", "patch_attention"]


@contextmanager
def class_attention(attentions: list[nn.Module], prefix: int = 1) -> Iterator[list[Tensor]]:
    """Collects the class token's attention over the patches from every call of the given layers.

    Args:
        attentions: attention layers in timm's form (``qkv``, ``num_heads``, ``scale``, ``q_norm``, ``k_norm``).
        prefix: tokens before the patches; the first is the class token (2 for a distilled DeiT).

    Yields:
        A list that grows by one (B, N) tensor a call, in the order of the calls: the softmax over all tokens,
        averaged over the heads, the ``prefix`` columns dropped.  It is empty when the block begins.

    Raises:
        TypeError: a layer without ``qkv``.
    """
    rows: list[Tensor] = []
    with _watched(attentions, lambda attention, qkv: rows.append(_class_row(attention, qkv)[:, prefix:])):
        yield rows


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
        attentions, prefix: as for ``class_attention``.

    Yields:
        A sum to which every call adds softmax(q k^T / sqrt(d)), over all tokens and averaged over the heads, without
        the ``prefix`` rows and columns; so rows sum to less than one.  Beside it one matrix is held, of one head.

    Raises:
        TypeError: a layer without ``qkv``.
    """
    sums = PatchAttention()
    with _watched(attentions, lambda attention, qkv: _add_matrices(sums, attention, qkv, prefix)):
        yield sums


@contextmanager
def _watched(attentions: list[nn.Module], see: Callable[[Any, Tensor], None]) -> Iterator[None]:
    """Calls ``see`` with the layer and the output of its ``qkv``, (B, N, 3 * D), at every call inside."""
    for attention in attentions:
        if not isinstance(getattr(attention, "qkv", None), nn.Module):
            raise TypeError(f"{type(attention).__name__} has no `qkv` layer; class attention needs timm's Attention.")
    owner = threading.get_ident()
    attention_of: dict[Any, nn.Module] = {attention.qkv: attention for attention in attentions}

    @torch.compiler.disable  # it is another function in every block, and would be compiled anew in each
    def pass_on(layer: nn.Module, _inputs: Any, qkv: Tensor) -> None:
        if threading.get_ident() == owner:  # another thread may be running the same model
            see(attention_of[layer], qkv)

    handles = [layer.register_forward_hook(pass_on) for layer in attention_of]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _class_row(attention: nn.Module, qkv: Tensor) -> Tensor:
    """(B, N, 3 * D) from the ``qkv`` layer -> (B, N): row 0 of the attention matrix, averaged over the heads."""
    q, k, _ = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=attention.num_heads)
    q, k = attention.q_norm(q[:, :, :1]), attention.k_norm(k)  # type: ignore[operator]
    scores = (q.float() * attention.scale * k.float()).sum(dim=-1)  # no matrix product: autocast would round it
    return torch.softmax(scores, dim=-1).mean(dim=1)


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


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every submodule's own mode again afterwards."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
