"""Class attention: what the class token looks at, without any N x N matrix.

A CAM needs one row of each attention matrix, softmax(q_cls k^T / sqrt(d)).  It is computed here from the output of
each block's ``qkv`` layer, so the block itself keeps its fused attention and memory stays linear in the tokens.
This is the only file with hooks; they, and the evaluation mode they run in, last as long as a ``with`` block.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

__all__ = ["class_attention", "evaluating"]


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
    for attention in attentions:
        if not isinstance(getattr(attention, "qkv", None), nn.Module):
            raise TypeError(f"{type(attention).__name__} has no `qkv` layer; class attention needs timm's Attention.")
    rows: list[Tensor] = []
    owner = threading.get_ident()

    def hook(attention: nn.Module) -> Callable[..., None]:
        def collect(_layer: nn.Module, _inputs: Any, qkv: Tensor) -> None:
            if threading.get_ident() == owner:  # another thread may be running the same model
                rows.append(_class_row(attention, qkv)[:, prefix:])

        return collect

    handles = [attention.qkv.register_forward_hook(hook(attention)) for attention in attentions]  # type: ignore[union-attr]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


def _class_row(attention: nn.Module, qkv: Tensor) -> Tensor:
    """(B, N, 3 * D) from the ``qkv`` layer -> (B, N): row 0 of the attention matrix, averaged over the heads."""
    q, k, _ = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=attention.num_heads)
    q, k = attention.q_norm(q[:, :, :1]), attention.k_norm(k)  # type: ignore[operator]
    scores = (q.float() * attention.scale * k.float()).sum(dim=-1)  # no matrix product: autocast would round it
    return torch.softmax(scores, dim=-1).mean(dim=1)


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
