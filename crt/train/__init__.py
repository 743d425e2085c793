"""Training (extra ``train``): the stages, their recipes, and heads on cached features."""

from crt.train.cam import build_branches, train_cam
from crt.train.frozen import train_frozen
from crt.train.recipe import RECIPES, make_recipe
from crt.train.refine import build_boundary_net, train_refine
from crt.train.segment import build_segmenter, train_segment

__all__ = [
    "RECIPES",
    "build_boundary_net",
    "build_branches",
    "build_segmenter",
    "make_recipe",
    "train_cam",
    "train_frozen",
    "train_refine",
    "train_segment",
]
