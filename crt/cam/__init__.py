"""Tensors in, class activation maps out."""

from crt.cam.extractor import CAMExtractor
from crt.cam.functional import mask_from_cam
from crt.cam.presets import PRESETS
from crt.cam.protocol import CAMModel
from crt.cam.result import CAMResult
from crt.cam.segment import Segmenter

__all__ = ["PRESETS", "CAMExtractor", "CAMModel", "CAMResult", "Segmenter", "mask_from_cam"]
