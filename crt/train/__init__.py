"""Training (extra ``train``): the stages, their recipes, and heads on cached features."""

from crt.train.cam import build_branches, train_cam
from crt.train.features import FeatureCache, Features
from crt.train.frozen import train_frozen
from crt.train.head import HeadRecipe, install_head, patch_masks, train_head
from crt.train.loop import RunOptions
from crt.train.recipe import RECIPES, CAMRecipe, FrozenRecipe, Recipe, RefineRecipe, SegmentRecipe, make_recipe
from crt.train.refine import build_boundary_net, train_refine
from crt.train.segment import build_segmenter, train_segment

__all__ = [
    "RECIPES",
    "CAMRecipe",
    "FeatureCache",
    "Features",
    "FrozenRecipe",
    "HeadRecipe",
    "Recipe",
    "RefineRecipe",
    "RunOptions",
    "SegmentRecipe",
    "build_boundary_net",
    "build_branches",
    "build_segmenter",
    "install_head",
    "make_recipe",
    "patch_masks",
    "train_cam",
    "train_frozen",
    "train_head",
    "train_refine",
    "train_segment",
]
