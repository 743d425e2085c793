"""What a plain ViT computes on a batch of images: tokens from pixels, several passes over its blocks (equation 2).

Images may have any size of whole patches: position embeddings are then interpolated to the image's own grid (bicubic,
without antialiasing, as DINOv2 does).
"""

from collections import OrderedDict
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from crt.cam.attention import class_attention

if hasattr(torch.compiler, "is_compiling"):
    from torch.compiler import is_compiling
else:  # torch 2.2
    from torch._dynamo.external_utils import is_compiling

__all__ = ["positions", "run_passes"]

CACHED = 8  # grids a model
_cache: WeakKeyDictionary[nn.Module, OrderedDict[tuple[Any, ...], Tensor]] = WeakKeyDictionary()


def run_passes(vit: Any, x: Tensor, num_passes: int, rows: list[Tensor] | None = None, *, last: bool = False) -> Tensor:
    """Images -> normed tokens (T, prefix + N, D), the class token first, patches row by row.

    Args:
        vit: timm's vision transformer.
        x: (T, 3, H, W), normalized; H and W are whole patches.
        num_passes: how often x <- x + blocks(x) is applied; 0 is the plain transformer, x <- blocks(x) once.
        rows: takes the class token's attention over the patches, (T, N), of each block in each pass.
        last: of the last block in the last pass only; the others' attention is not computed.
    """
    save_memory = vit.grad_checkpointing and torch.is_grad_enabled()  # ``vit.set_grad_checkpointing()``
    x = vit.norm_pre(vit.patch_drop(_embed(vit, x)))
    final = (max(num_passes, 1) - 1, len(vit.blocks) - 1)
    for number in range(final[0] + 1):
        y = x
        for place, block in enumerate(vit.blocks):
            if rows is not None and (not last or (number, place) == final):
                rows.append(class_attention(block, y, vit.num_prefix_tokens))
            y = checkpoint(block, y, use_reentrant=False) if save_memory else block(y)
        x = x + y if num_passes else y
    return vit.norm(x)


def _embed(vit: Any, x: Tensor) -> Tensor:
    """(T, 3, H, W) -> tokens with their positions."""
    embed = vit.patch_embed
    grid = (x.shape[-2] // embed.patch_size[0], x.shape[-1] // embed.patch_size[1])
    symbolic = not all(isinstance(side, int) for side in grid)  # while a graph of any size is exported
    if not symbolic and grid == tuple(embed.grid_size):
        return vit._pos_embed(embed(x))
    patches = embed.norm(embed.proj(x).flatten(2).transpose(1, 2))
    first = [getattr(vit, name, None) for name in ("cls_token", "dist_token", "reg_token")]
    prefix = [token.expand(x.shape[0], -1, -1) for token in first if token is not None]
    own = positions(vit, grid).to(patches.dtype)
    if vit.no_embed_class:
        return vit.pos_drop(torch.cat([*prefix, patches + own], dim=1))
    return vit.pos_drop(torch.cat([*prefix, patches], dim=1) + own)


def positions(vit: Any, grid: tuple[int, int]) -> Tensor:
    """The position embedding for another grid, (1, tokens, D) float32; the last few are kept until it changes."""
    learned = vit.pos_embed
    trained = torch.is_grad_enabled() and learned.requires_grad
    compiled = is_compiling()  # ``torch.export``, too: its tensors have no address
    if compiled or trained or learned.is_inference() or torch.is_inference_mode_enabled():
        return _interpolate(vit, grid)
    kept = _cache.setdefault(vit, OrderedDict())
    key = (grid, learned.data_ptr(), learned._version, learned.dtype, learned.device)
    found = kept.get(key)
    if found is None:
        found = kept[key] = _interpolate(vit, grid).detach()
        while len(kept) > CACHED:
            kept.popitem(last=False)
    return found


def _interpolate(vit: Any, grid: tuple[int, int]) -> Tensor:
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    first, patches = vit.pos_embed.float().tensor_split([prefix], dim=1)
    learned = patches.unflatten(1, tuple(vit.patch_embed.grid_size)).permute(0, 3, 1, 2)
    resized = F.interpolate(learned, grid, mode="bicubic", align_corners=False)
    return torch.cat([first, resized.flatten(2).transpose(1, 2)], dim=1)
