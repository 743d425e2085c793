"""State dicts of the public reference implementation's ViT branch."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["read_reference", "shape_arguments", "split_reference"]


def read_reference(state_dict: Mapping[str, Tensor], num_heads: int | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments and state dict of the ``CRT`` with these weights.

    Raises:
        ValueError: missing tensors.
    """
    backbone, head = split_reference(state_dict)
    arguments, tiling = shape_arguments(backbone, num_heads)
    state = {f"backbone.{name}": value for name, value in backbone.items()}
    state |= {f"head.{name}": value for name, value in head.items()}
    return {"num_classes": head["weight"].shape[0], **tiling, "backbone_args": arguments}, state


def split_reference(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Splits a reference state dict into backbone and head; the prefix of DataParallel is dropped."""
    state = {name.removeprefix("module."): value for name, value in state_dict.items()}
    needed = ("patch_embed.proj.weight", "cls_token", "pos_embed", "blocks.0.mlp.fc1.weight", "head.weight")
    if missing := [name for name in needed if name not in state]:
        raise ValueError(f"this is not a state dict of the reference's ViT branch: it lacks {', '.join(missing)}.")
    if state["head.weight"].ndim != 4:
        raise ValueError("the head is not a convolution: this is a plain classifier, not the reference's ViT branch.")
    head = {name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}
    return {name: value for name, value in state.items() if not name.startswith("head.")}, head


def shape_arguments(backbone: Mapping[str, Tensor], num_heads: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the shapes tell: timm's arguments for the transformer, and ``CRT``'s tile and stride (half a tile)."""
    dim, patch = backbone["patch_embed.proj.weight"].shape[0], backbone["patch_embed.proj.weight"].shape[-1]
    depth = 1 + max(int(name.split(".")[1]) for name in backbone if name.startswith("blocks."))
    side = math.isqrt(backbone["pos_embed"].shape[1] - 1)
    arguments = {
        "embed_dim": dim,
        "depth": depth,
        "num_heads": num_heads or max(dim // 64, 1),
        "mlp_ratio": (backbone["blocks.0.mlp.fc1.weight"].shape[0] + 0.5) / dim,  # timm rounds down
        "patch_size": patch,
        "qkv_bias": "blocks.0.attn.qkv.bias" in backbone,
    }
    return arguments, {"tile": side * patch, "stride": max(side // 2, 1) * patch}
