"""What a training run is made of, and the runs that have names."""

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from crt.cam.functional import Activation

__all__ = ["PRESETS", "REFINE_PRESETS", "CAMRecipe", "RefineRecipe", "make_recipe", "make_refine_recipe"]

Recipe = TypeVar("Recipe", "CAMRecipe", "RefineRecipe")


@dataclass(frozen=True)
class CAMRecipe:
    """Settings of the CAM stage (paper section 4.1).

    Attributes:
        model: architecture of the ViT branch (``crt.list_models``).
        num_passes: see ``CRT``.
        attention_power, activation, pool: see ``CRT``.
        cnn: timm CNN of the other branch, or None to train the transformer alone.
        coupling: weight of the distance between the branches' maps, the paper's lambda.
        coupling_from: first epoch (from 0) in which it is not zero.
        single_label: photos show one class each: softmax cross entropy, as in localisation (``paper-wsol``).
        mask: weight of the loss on pseudo masks (``mask_loss``); 0 trains on labels alone.
        epochs, batch_size: length of the run, photos a step over all processes.
        optimizer, lr, weight_decay: of the backbones.
        head_factor: learning rate of the heads as a multiple of ``lr``.
        warmup: steps of linear rise, before polynomial decay with ``power``.
        clip: largest gradient norm; None does not clip.
        crop: side of the training crop, pixels.
        area: share of the photo's area that a crop shows, (smallest, largest), of any shape from 3:4 to 4:3; None
            is the paper's way, the long side brought to ``long_side`` and a crop padded with zeros.
        long_side: range in pixels, used without ``area``.
    """

    model: str = "crt_vit_t16"
    num_passes: int = 0
    attention_power: float = 1.0
    activation: Activation = "relu"
    pool: float = 1.0
    cnn: str | None = "tf_efficientnet_lite0"
    coupling: float = 0.1
    coupling_from: int = 1
    single_label: bool = False
    mask: float = 0.0
    epochs: int = 4
    batch_size: int = 16
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-4
    weight_decay: float = 0.01
    head_factor: float = 10.0
    warmup: int = 100
    power: float = 0.9
    clip: float | None = 5.0
    crop: int = 224
    area: tuple[float, float] | None = (0.3, 1.0)
    long_side: tuple[int, int] = (210, 420)

    def __post_init__(self) -> None:
        """Raises: ValueError if a setting is out of its range."""
        _check(self, coupling=(self.coupling >= 0, "at least 0"), mask=(self.mask >= 0, "at least 0"))


@dataclass(frozen=True)
class RefineRecipe:
    """Settings of the refinement stage: the boundary network of IRN (Ahn et al., CVPR 2019).

    Attributes:
        backbone, output_stride, boundary_width, displacement_width: see ``BoundaryNet``.
        radius: of the pairs that the losses look at, in cells of 4 pixels.
        epochs, batch_size: length of the run, photos a step over all processes.
        optimizer, lr, weight_decay: of the boundary head.
        head_factor: learning rate of the displacement head as a multiple of ``lr``.
        warmup, power, clip, area: see ``CAMRecipe``.
        crop: side of the training crop, pixels, a multiple of 4.
        long_side: range to which the photo's long side is brought, used without ``area``.
    """

    backbone: str = "tf_efficientnet_lite0"
    output_stride: int = 16
    boundary_width: int = 32
    displacement_width: int = 64
    radius: int = 10
    epochs: int = 3
    batch_size: int = 16
    optimizer: Literal["adamw", "sgd"] = "sgd"
    lr: float = 0.1
    weight_decay: float = 1e-4
    head_factor: float = 10.0
    warmup: int = 0
    power: float = 0.9
    clip: float | None = None
    crop: int = 256
    area: tuple[float, float] | None = None
    long_side: tuple[int, int] = (320, 640)

    def __post_init__(self) -> None:
        """Raises: ValueError if a setting is out of its range."""
        _check(self, radius=(self.radius >= 2, "at least 2"), crop=(self.crop % 4 == 0, "a multiple of 4"))


def _check(recipe: CAMRecipe | RefineRecipe, **more: tuple[bool, str]) -> None:
    """Rules that all recipes share, and more: name = (whether it is right, what is allowed)."""
    for name, value in vars(recipe).items():
        if isinstance(value, float | tuple) and not _finite(value):
            raise ValueError(f"{name} must be finite, got {value!r}.")
    area, sides, clip = recipe.area, recipe.long_side, recipe.clip
    ranged = isinstance(area, tuple) and len(area) == 2 and 0 < area[0] <= area[1] <= 1
    rules = {
        "optimizer": (recipe.optimizer in ("adamw", "sgd"), "'adamw' or 'sgd'"),
        "epochs": (recipe.epochs >= 1, "at least 1"),
        "batch_size": (recipe.batch_size >= 1, "at least 1"),
        "crop": (recipe.crop >= 1, "at least 1"),
        "lr": (recipe.lr > 0, "above 0"),
        "warmup": (recipe.warmup >= 0, "at least 0"),
        "weight_decay": (recipe.weight_decay >= 0, "at least 0"),
        "head_factor": (recipe.head_factor > 0, "above 0"),
        "power": (recipe.power >= 0, "at least 0"),
        "clip": (clip is None or (isinstance(clip, int | float) and _finite(clip) and clip > 0), "above 0, or null"),
        "area": (area is None or ranged, "0 < a <= b <= 1"),
        "long_side": (
            len(sides) == 2 and all(isinstance(side, int) for side in sides) and 1 <= sides[0] <= sides[1],
            "two rising sizes",
        ),
    }
    for name, (right, wanted) in [*rules.items(), *more.items()]:
        if not right:
            raise ValueError(f"{name} must be {wanted}, got {getattr(recipe, name)!r}.")


def _finite(value: Any) -> bool:
    """Whether a number, or each of a tuple, is one."""
    numbers = value if isinstance(value, tuple) else (value,)
    return all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)


_PAPER = CAMRecipe(
    model="crt_vit_s16",
    num_passes=3,
    cnn="resnet152",
    epochs=10,
    optimizer="sgd",
    lr=0.1,
    weight_decay=1e-4,
    warmup=0,
    clip=None,
    crop=336,
    area=None,
)

_MASKS = CAMRecipe(cnn=None, coupling=0.0, attention_power=0.0, activation="sigmoid", pool=0.1, mask=1.0, lr=5e-5)

PRESETS = {
    "t16-voc9k": CAMRecipe(attention_power=0.5),
    "t16-voc9k-masks": _MASKS,
    "t16-cub50": CAMRecipe(single_label=True, activation="object", epochs=8),
    "paper": _PAPER,
    "paper-wsol": dataclasses.replace(
        _PAPER, num_passes=0, cnn="resnet50", single_label=True, batch_size=64, crop=224, long_side=(256, 256)
    ),
}

REFINE_PRESETS = {
    "irn-lite0-voc9k": RefineRecipe(),
    "irn-paper": RefineRecipe(
        backbone="resnet50", displacement_width=256, batch_size=32, crop=512, long_side=(250, 750)
    ),
}


def make_recipe(preset: str, changes: Iterable[str] = ()) -> CAMRecipe:
    """A named recipe of the CAM stage with settings changed.

    Args:
        preset: a name in ``PRESETS``.
        changes: "name=value" each, the value in JSON; text needs no quotes.

    Raises:
        ValueError: an unknown preset or setting, or a value of the wrong type.

    >>> make_recipe("paper", ["epochs=2", "cnn=resnet50"]).cnn
    'resnet50'
    """
    return _made(PRESETS, preset, changes)


def make_refine_recipe(preset: str, changes: Iterable[str] = ()) -> RefineRecipe:
    """A named recipe of the refinement stage with settings changed, as ``make_recipe`` does; see ``REFINE_PRESETS``.

    >>> make_refine_recipe("irn-paper", ["batch_size=16"]).crop
    512
    """
    return _made(REFINE_PRESETS, preset, changes)


def _made(presets: dict[str, Recipe], preset: str, changes: Iterable[str]) -> Recipe:
    if preset not in presets:
        raise ValueError(f"unknown preset {preset!r}; there are {', '.join(presets)}.")
    recipe, values = presets[preset], {}
    for change in changes:
        name, _, text = change.partition("=")
        fields = dataclasses.asdict(recipe)
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(fields)}."
            raise ValueError(f"unknown setting {name!r}; {hint}")
        values[name] = _parse(name, text, fields[name])
    return dataclasses.replace(recipe, **values)


def _parse(name: str, text: str, old: Any) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if isinstance(value, list):
        value = tuple(value)
    nullable = name in ("cnn", "area", "clip")
    if (value is None and not nullable) or (value is not None and old is not None and type(value) is not type(old)):
        raise ValueError(f"{name}={text}: expected a value like {json.dumps(old)}.")
    return value
