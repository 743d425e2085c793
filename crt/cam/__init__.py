"""Tensors in, class activation maps out."""

from crt.cam.attention import class_attention, patch_attention
from crt.cam.extract import CAMExtractor, CAMModel
from crt.cam.functional import largest_component, mask_from_cam, merge_scales, normalise, pooled, resize, snapped_size
from crt.cam.presets import PRESETS
from crt.cam.result import CAMResult
from crt.cam.tiling import cut, merge, offsets

__all__ = [
    "PRESETS",
    "CAMExtractor",
    "CAMModel",
    "CAMResult",
    "class_attention",
    "cut",
    "largest_component",
    "mask_from_cam",
    "merge",
    "merge_scales",
    "normalise",
    "offsets",
    "patch_attention",
    "pooled",
    "resize",
    "snapped_size",
]
