"""The settings of a whole run, and what can be checked before any work."""

import dataclasses
import os
from pathlib import Path
from typing import Literal

import torch

from crt._messages import printable
from crt.data import ImageDataset
from crt.models import CRT, create_model, list_models
from crt.train import make_recipe
from crt.train.recipe import FrozenRecipe, SegmentRecipe

__all__ = ["BOUNDARY_LEAST", "FitRecipe", "default_start", "load_start"]

BOUNDARY_LEAST = 500  # photos that a boundary network needs


def _frozen() -> FrozenRecipe:
    return make_recipe("s16-voc9k", stage=FrozenRecipe)


@dataclasses.dataclass(frozen=True)
class FitRecipe:
    """Settings of ``fit``.

    Attributes:
        start: the trained CRT whose backbone is used: a name (``crt.list_models``), an address ("local-dir:PATH",
            "hf-hub:ORG/NAME") or a folder; None takes ``default_start()``, which needs no download.
        frozen: of the CAM stage (``crt.train.train_frozen``); margins must be "otsu", for which no mask is needed.
        refiner: of the maps (``crt.create_refiner``), or "none".
        boundary: train a boundary network on the pseudo masks, and refine the maps with it.
        segment: the last stage: "heads" fits a new head to the masks, on cached features, in minutes; "net" trains the
            whole network (``crt.train.train_segment``).
        segmentation: settings of "net"; ``arch`` other than "crt" needs the extra ``segment``.
        encoder_checkpoint: ImageNet weights for the encoder of another ``arch``, a safetensors file; None fetches them.
        seed: of the order of the images.

    Raises:
        ValueError: settings that do not go together.
    """

    start: str | os.PathLike[str] | None = None
    frozen: FrozenRecipe = dataclasses.field(default_factory=_frozen)
    refiner: str = "pamr"
    boundary: bool = False
    segment: Literal["heads", "net"] = "heads"
    segmentation: SegmentRecipe = dataclasses.field(default_factory=SegmentRecipe)
    encoder_checkpoint: str | os.PathLike[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.segment not in ("heads", "net"):
            raise ValueError(f"segment must be 'heads' or 'net', got {printable(self.segment, 60)!r}.")
        if self.frozen.margins != "otsu":
            raise ValueError("crt fit is given no masks, so frozen.margins must be 'otsu'.")
        other = self.segmentation.arch != "crt"
        if self.segment == "heads" and other:
            raise ValueError(f"arch={self.segmentation.arch} is trained as a whole: set segment='net'.")
        if self.encoder_checkpoint is not None and not other:
            raise ValueError("encoder_checkpoint is for another arch than 'crt', which begins with the CAM stage's.")

    def check_data(self, dataset: ImageDataset, *, force: bool = False) -> None:
        """Refuses data from which nothing can be learned, before any work.

        Raises:
            ValueError: see ``ImageDataset.check_trainable``; too few photos for a stage.
        """
        dataset.check_trainable(force=force)
        if len(dataset.class_names) > 254:
            raise ValueError(f"a pixel of a mask is one byte: 254 classes at most, not {len(dataset.class_names)}.")
        if self.boundary and len(dataset) < BOUNDARY_LEAST:
            raise ValueError(
                f"a boundary network needs {BOUNDARY_LEAST} photos or more, there are {len(dataset)}: leave boundary "
                "(--boundary) out."
            )
        if self.segment == "net" and len(dataset) < self.segmentation.batch_size:
            raise ValueError(
                f"{len(dataset)} photos are less than a batch of {self.segmentation.batch_size}: add photos, make "
                "batch_size smaller, or take segment='heads'."
            )


def default_start() -> str:
    """The best bundled backbone: CRT-S if its weights are there, else CRT-Ti."""
    bundled = list_models(pretrained=True)
    return next((name for name in bundled if name.startswith("crt_vit_s16.")), "crt_vit_t16.voc9k")


def load_start(recipe: FitRecipe, class_names: list[str], device: torch.device | str = "cpu") -> CRT:
    """The start of a recipe, with a new head for these classes.

    Raises:
        ValueError: an unknown name, or a model that is not a CRT.
        OSError: weights that cannot be found.
    """
    start = default_start() if recipe.start is None else os.fspath(recipe.start)
    if not start.startswith(("local-dir:", "hf-hub:")) and Path(start).expanduser().is_dir():
        start = f"local-dir:{start}"
    model = create_model(start, pretrained=True)
    if not isinstance(model, CRT):
        raise ValueError(f"{printable(start)} is not a CRT, so its features cannot be used.")
    torch.manual_seed(recipe.seed)
    model.reset_classifier(len(class_names), class_names)
    return model.to(device)
