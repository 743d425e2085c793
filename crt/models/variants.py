"""The registered models.  A new one is a function here: its name, its backbone, the tags of its trained weights."""

from typing import Any

from crt.models.crt import CRT
from crt.models.registry import PretrainedCfg, register_model

__all__ = ["crt_vit_b16", "crt_vit_s16", "crt_vit_t16"]


@register_model(
    tags={
        "voc9k": PretrainedCfg(description="20 VOC classes, from 8 948 photos with image-level labels"),
        "cub50": PretrainedCfg(description="50 kinds of birds, one a photo (localization), from 1 350 photos"),
    }
)
def crt_vit_t16(backbone: str = "vit_tiny_patch16_224", **arguments: Any) -> CRT:
    """CRT over ViT-Ti/16 (5.7 M parameters)."""
    return CRT(backbone, **arguments)


@register_model(tags={"voc9k": PretrainedCfg(description="20 VOC classes, from 8 948 photos with image-level labels")})
def crt_vit_s16(backbone: str = "deit_small_patch16_224", **arguments: Any) -> CRT:
    """CRT over ViT-S/16, the size of the paper's DeiT-S (22 M parameters)."""
    return CRT(backbone, **arguments)


@register_model()
def crt_vit_b16(backbone: str = "deit_base_patch16_224", **arguments: Any) -> CRT:
    """CRT over DeiT-B/16 (86 M parameters)."""
    return CRT(backbone, **arguments)
