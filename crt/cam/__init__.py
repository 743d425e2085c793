"""Tensors in, class activation maps out."""

from crt.cam.attention import class_attention, patch_attention
from crt.cam.extractor import CAMExtractor
from crt.cam.functional import largest_component, mask_from_cam, merge_scales, normalize_cam, pool_maps, snapped_size
from crt.cam.paths import displacements, path_affinity
from crt.cam.presets import PRESETS
from crt.cam.protocol import CAMModel
from crt.cam.result import CAMResult
from crt.cam.segment import Segmentation, Segmenter
from crt.cam.tiling import cut, merge, offsets

__all__ = [
    "PRESETS",
    "CAMExtractor",
    "CAMModel",
    "CAMResult",
    "Segmentation",
    "Segmenter",
    "class_attention",
    "cut",
    "displacements",
    "largest_component",
    "mask_from_cam",
    "merge",
    "merge_scales",
    "normalize_cam",
    "offsets",
    "patch_attention",
    "path_affinity",
    "pool_maps",
    "snapped_size",
]
