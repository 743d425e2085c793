"""timm's backbones: building them by name, and fitting their weights to another tile."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import timm
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor

from crt._messages import did_you_mean
from crt.models.hub import TransportError

__all__ = ["fit_position_embedding", "plain_vit", "three_values", "timm_model"]


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
    return resample_abs_pos_embed(embedding.float(), [side, side], num_prefix_tokens=prefix)


def timm_model(name: str, *, pretrained: bool = False, **arguments: Any) -> Any:
    """``timm.create_model`` with errors that help.

    Raises:
        ValueError: an unknown name, or arguments that this model does not take.
        OSError: ``pretrained``, and the weights cannot be fetched.
    """
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models(), n=3)
        raise ValueError(f"timm has no model {name!r}.{hint} timm.list_models('*...*') lists them.")
    try:
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except (TypeError, RuntimeError, AssertionError, TransportError, OSError) as error:
        if pretrained:
            raise OSError(
                f"timm could not load the ImageNet weights of {name} ({error}). Without a network, give a file: "
                f"backbone_checkpoint=FILE.safetensors, cnn_checkpoint=FILE.safetensors."
            ) from error
        raise ValueError(f"timm's {name!r} cannot be built with {arguments}: {error!r}.") from error


def plain_vit(name: str, tile: int, arguments: Mapping[str, Any]) -> Any:
    """timm's vision transformer of a name, without classifier, for square images of ``tile`` pixels.

    Raises:
        ValueError: an unknown name or argument, or a model that is no plain ViT with a class token: none at all, a
            hybrid with a CNN below it, or blocks without one attention layer each.
    """
    what = f"{name!r} is no plain ViT with a class token, such as 'deit_small_patch16_224'."
    try:
        vit = timm_model(name, num_classes=0, img_size=tile, **arguments)
    except ValueError as error:
        raise ValueError(f"{error} Or else {what}" if timm.is_model(name) else str(error)) from error
    plain = isinstance(vit, VisionTransformer) and all(type(block) is Block for block in vit.blocks)
    if not plain or vit.cls_token is None or not isinstance(vit.patch_embed, PatchEmbed):
        raise ValueError(what)
    return vit


def three_values(values: Sequence[float], name: str) -> list[float]:
    """Mean or deviation of the three channels, checked.

    Raises:
        ValueError: not three values.
    """
    if len(values) != 3:
        raise ValueError(f"{name} needs three values, one a channel; got {list(values)}.")
    return [float(value) for value in values]
