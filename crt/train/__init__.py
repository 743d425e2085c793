"""Training (extra ``train``): the CAM stage."""

from crt.train.cam import build_branches, train_cam
from crt.train.recipe import PRESETS, CAMRecipe, make_recipe

__all__ = ["PRESETS", "CAMRecipe", "build_branches", "make_recipe", "train_cam"]
