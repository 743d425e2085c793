"""What a plain ViT computes on a batch of images: tokens from pixels, several passes over its blocks (equation 2)."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from crt.cam.attention import class_attention

__all__ = ["run_passes"]


def run_passes(vit: Any, x: Tensor, num_passes: int, rows: list[Tensor] | None = None) -> Tensor:
    """Images of the ViT's own size -> normed tokens (T, prefix + N, D), the class token first.

    Args:
        vit: timm's vision transformer.
        x: (T, 3, H, W), normalized.
        num_passes: how often x <- x + blocks(x) is applied; 0 is the plain transformer, x <- blocks(x) once.
        rows: takes the class token's attention over the patches, (T, N), of each block in each pass.
    """
    x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))
    save_memory = vit.grad_checkpointing and torch.is_grad_enabled()  # ``vit.set_grad_checkpointing()``
    for _ in range(max(num_passes, 1)):
        y = x
        for block in vit.blocks:
            if rows is not None:
                rows.append(class_attention(block, y, vit.num_prefix_tokens))
            y = checkpoint(block, y, use_reentrant=False) if save_memory else block(y)
        x = x + y if num_passes else y
    return vit.norm(x)
