"""timm's backbones: building them by name, and fitting their weights to another tile."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import timm
import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed, resample_patch_embed
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.overrides import TorchFunctionMode

from crt._messages import did_you_mean, printable
from crt.models.config import MAX_PARAMETERS

__all__ = [
    "WithoutMemory",
    "fit_plain_vit",
    "fit_position_embedding",
    "outline_of",
    "plain_vit",
    "timm_model",
    "vit_outline",
]

MAX_GRID = 128  # patches along a side of a tile


def fit_position_embedding(embedding: Tensor, own: Tensor, side: int) -> Tensor:
    """Resamples a checkpoint's position embedding (1, prefix + N, D) to ``side`` x ``side`` patches, if it needs it.

    ``own`` is the model's, which tells how many of the positions belong to prefix tokens.
    """
    if embedding.shape[1] == own.shape[1]:
        return embedding
    prefix = own.shape[1] - side * side
    if math.isqrt(embedding.shape[1] - prefix) ** 2 != embedding.shape[1] - prefix:
        raise ValueError(
            f"a position embedding of {embedding.shape[1]} tokens does not fit a model with {prefix} before the "
            f"patches (a distilled DeiT has 2 such tokens, others 1)."
        )
    return resample_abs_pos_embed(embedding.float(), [side, side], num_prefix_tokens=prefix, antialias=False)


def fit_plain_vit(state: Mapping[str, Tensor], vit: VisionTransformer, side: int) -> dict[str, Tensor]:
    """A plain ViT's weights in timm's layout, made to fit ``vit``, which sees ``side`` x ``side`` patches.

    The patch embedding is resampled to another patch size (FlexiViT, Beyer et al., CVPR 2023), the position embedding
    to another grid (bicubic, no antialias, as DINOv2 does). LayerScale goes into the layer before it, exactly, if
    ``vit`` has none; where only ``vit`` has it, it is one. The head and DINOv2's mask token are left out.

    Raises:
        ValueError: a position embedding that is not of a square grid, or has other prefix tokens.
    """
    own = vit.state_dict()
    dropped = ("head.", "head_dist.", "fc_norm.", "mask_token")
    fitted = {key: value for key, value in state.items() if key in own or not key.startswith(dropped)}
    for key in [key for key in fitted if key.endswith((".ls1.gamma", ".ls2.gamma"))]:
        if key in own:
            continue
        gamma = fitted.pop(key).float()
        layer = key.replace("ls1.gamma", "attn.proj").replace("ls2.gamma", "mlp.fc2")
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in fitted and len(fitted[name]) == len(gamma):
                fitted[name] = fitted[name].float() * gamma.view(-1, *[1] * (fitted[name].ndim - 1))
    fitted |= {key: torch.ones_like(own[key]) for key in own if key.endswith(".gamma") and key not in fitted}
    if "pos_embed" in fitted and fitted["pos_embed"].ndim == 3:
        fitted["pos_embed"] = fit_position_embedding(fitted["pos_embed"], own["pos_embed"], side)
    patches = fitted.get("patch_embed.proj.weight")
    size = list(own["patch_embed.proj.weight"].shape[-2:])
    if patches is not None and patches.ndim == 4 and list(patches.shape[-2:]) != size:
        fitted["patch_embed.proj.weight"] = resample_patch_embed(patches.float(), size)
    return fitted


def timm_model(name: str, *, pretrained: bool = False, **arguments: Any) -> Any:
    """``timm.create_model`` with errors that help, and without taking memory for a network that is too large.

    Raises:
        ValueError: an unknown name, arguments that this model does not take, or more than ``MAX_PARAMETERS``.
        OSError: ``pretrained``, and the weights cannot be fetched.
    """
    outline = outline_of(name, tuple(arguments.items()))
    if outline.parameters > MAX_PARAMETERS:
        raise ValueError(
            f"timm's {name!r} has {outline.parameters} parameters with these arguments; the limit is {MAX_PARAMETERS}."
        )
    try:
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except Exception as error:  # timm and the layers below it raise whatever they stumble over
        if pretrained:
            raise OSError(
                f"timm could not load the ImageNet weights of {name} ({printable(error)}). Without a network, give a "
                f"file: backbone_checkpoint=FILE.safetensors, cnn_checkpoint=FILE.safetensors."
            ) from error
        raise ValueError(
            f"timm's {name!r} cannot be built with {printable(arguments)}: {printable(repr(error))}."
        ) from error


class Outline(NamedTuple):
    """What is known of a network before it is built.

    Attributes:
        parameters: their number.
        not_plain: why it is not a plain ViT with a class token; empty if it is.
        grid: patches along each side of its image, if it is one.
    """

    parameters: int
    not_plain: str
    grid: int


class WithoutMemory(TorchFunctionMode):
    """New tensors have shapes but no values."""

    _FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._FACTORIES:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@lru_cache(maxsize=64)
def outline_of(name: str, arguments: tuple[tuple[str, Any], ...] = ()) -> Outline:
    """Builds timm's model of a name without memory and without random numbers, and looks at it.

    Raises:
        ValueError: an unknown name, or arguments that this model does not take.
    """
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models(), n=3)
        raise ValueError(f"timm has no model {printable(repr(name))}.{hint} timm.list_models('*...*') lists them.")
    try:
        with WithoutMemory(), torch.random.fork_rng(devices=[]):
            model = timm.create_model(name, pretrained=False, **dict(arguments))
    except Exception as error:  # as in timm_model
        raise ValueError(
            f"timm's {name!r} cannot be built with {printable(dict(arguments))}: {printable(repr(error))}."
        ) from error
    embed = getattr(model, "patch_embed", None)
    grid = embed.grid_size[0] if isinstance(embed, PatchEmbed) and embed.grid_size else 0
    return Outline(sum(parameter.numel() for parameter in model.parameters()), _why_not_plain(model), grid)


def _why_not_plain(model: Any) -> str:
    """What class attention does not follow in timm's model; empty if it follows all of it."""
    kind = type(model).__name__
    if not isinstance(model, VisionTransformer):
        blocks = list(getattr(model, "blocks", []))
        attention = getattr(blocks[0], "attn", None) if blocks else None
        if getattr(model, "rope", None) is not None:  # DINOv3, EVA-02 and others
            return f"it is timm's {kind}, which rotates queries and keys by position (RoPE)"
        if kind == "Beit" or hasattr(attention, "rel_pos") or hasattr(attention, "relative_position_bias_table"):
            return f"it is timm's {kind}, whose attention adds relative position biases"
        return f"it is timm's {kind}, not its VisionTransformer, and attends in another way"
    if not isinstance(model.patch_embed, PatchEmbed):
        return "it is a hybrid, whose patches are those of a CNN's features"
    if model.cls_token is None:
        return "it has no class token"
    if model.pos_embed is None:
        return "it has no learned position embedding"
    if other := {type(block).__name__ for block in model.blocks if type(block) is not Block}:
        return f"its blocks are of the kind {other.pop()}, not one attention layer and one MLP"
    if not all(isinstance(getattr(block.attn, "qkv", None), torch.nn.Linear) for block in model.blocks):
        return "its attention has no common layer `qkv`"
    return ""


def plain_vit(name: str, tile: int, arguments: Mapping[str, Any]) -> Any:
    """timm's vision transformer of a name, without classifier, for square images of ``tile`` pixels.

    Args:
        arguments: those of ``crt.models.config.ARCHITECTURE``.

    Raises:
        ValueError: an unknown name or argument; more than 128 x 128 patches to a tile; or a model that is not a plain
            ViT with a class token: none at all, a hybrid with a CNN below it, blocks with several attention layers,
            positions that are rotations (DINOv3, EVA-02) or biases (BEiT) inside attention.
    """
    vit_outline(name, tile, arguments)
    return timm_model(name, num_classes=0, img_size=tile, **arguments)


def vit_outline(name: str, tile: int, arguments: Mapping[str, Any]) -> Outline:
    """What ``plain_vit`` would build; raises as it does."""
    if not timm.is_model(name):
        outline_of(name)  # raises
    try:
        outline = outline_of(name, (("num_classes", 0), ("img_size", tile), *arguments.items()))
    except ValueError as error:  # other transformers take other arguments: say that first
        reason = outline_of(name).not_plain
        raise ValueError(_not_plain(name, reason) if reason else str(error)) from error
    if outline.not_plain:
        raise ValueError(_not_plain(name, outline.not_plain))
    if outline.grid > MAX_GRID:
        raise ValueError(f"a tile of {tile} pixels is {outline.grid} patches a side; at most {MAX_GRID} are supported.")
    return outline


def _not_plain(name: str, reason: str) -> str:
    return (
        f"{name!r} is not a plain ViT with a class token, such as 'deit_small_patch16_224': {reason}. Class attention "
        f"follows timm's VisionTransformer with learned positions only."
    )
