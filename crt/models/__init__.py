"""The networks, and how they are named, found, loaded and shared."""

from crt.models import variants as _variants  # registers the models
from crt.models.boundary_net import BoundaryNet
from crt.models.crt import CRT
from crt.models.factory import create_model
from crt.models.registry import PretrainedCfg, get_pretrained_cfg, is_model, list_models, register_model
from crt.models.segmentation import SegmentationNet

__all__ = [
    "CRT",
    "BoundaryNet",
    "PretrainedCfg",
    "SegmentationNet",
    "create_model",
    "get_pretrained_cfg",
    "is_model",
    "list_models",
    "register_model",
]
del _variants
