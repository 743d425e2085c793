"""Training (extra ``train``): the CAM stage and the refinement stage."""

from crt.train.cam import build_branches, train_cam
from crt.train.loop import RunOptions
from crt.train.recipe import RECIPES, CAMRecipe, Recipe, RefineRecipe, make_recipe
from crt.train.refine import build_boundary_net, train_refine

__all__ = [
    "RECIPES",
    "CAMRecipe",
    "Recipe",
    "RefineRecipe",
    "RunOptions",
    "build_boundary_net",
    "build_branches",
    "make_recipe",
    "train_cam",
    "train_refine",
]
