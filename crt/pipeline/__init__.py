"""From labelled photos to a model that segments new ones: all stages, one after another (extra ``train``)."""

from crt.pipeline.fit import FitResult, fit
from crt.pipeline.plan import PlannedStage, plan_fit
from crt.pipeline.recipe import FitRecipe, default_start, load_start

__all__ = ["FitRecipe", "FitResult", "PlannedStage", "default_start", "fit", "load_start", "plan_fit"]
