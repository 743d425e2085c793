"""Training (extra ``train``): the CAM stage and the refinement stage."""

from crt.train.cam import build_branches, train_cam
from crt.train.recipe import PRESETS, REFINE_PRESETS, CAMRecipe, RefineRecipe, make_recipe, make_refine_recipe
from crt.train.refine import build_boundary_net, train_refine

__all__ = [
    "PRESETS",
    "REFINE_PRESETS",
    "CAMRecipe",
    "RefineRecipe",
    "build_boundary_net",
    "build_branches",
    "make_recipe",
    "make_refine_recipe",
    "train_cam",
    "train_refine",
]
