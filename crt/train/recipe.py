"""Recipes: the settings of a training run, and the runs that have names."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

from crt._messages import did_you_mean
from crt.cam.functional import Activation
from crt.train.rules import check_setting

__all__ = ["RECIPES", "CAMRecipe", "FrozenRecipe", "Recipe", "RefineRecipe", "SegmentRecipe", "Settings", "make_recipe"]

R = TypeVar("R", bound="Settings")


@dataclass(frozen=True)
class Settings:
    """Plain values, each checked by its rule.

    Raises:
        ValueError: a setting has the wrong type or is out of range (``crt.train.rules``).
    """

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, check_setting(name, value))


@dataclass(frozen=True)
class Recipe(Settings):
    """Settings that all stages share.

    Attributes:
        epochs, batch_size: length of the run; images per step over all processes.
        optimizer, lr, weight_decay: of the backbones.
        head_factor: learning rate of the heads as a multiple of ``lr``.
        warmup: steps of linear warm-up, followed by polynomial decay with ``power``.
        clip: largest gradient norm; None does not clip.
        crop: side of the training crop, pixels.
        area: share of the image's area that a crop shows, (smallest, largest), with an aspect ratio of 3:4 to 4:3;
            None resizes the long side to ``long_side`` and takes a crop, padded with zeros, as the paper does.
        long_side: range of the long side in pixels, used if ``area`` is None.
        jitter: strength of random changes of brightness, contrast and saturation; 0 leaves the colors as they are.
    """

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
    jitter: float = 0.0


@dataclass(frozen=True)
class CAMRecipe(Recipe):
    """Settings of the CAM stage (paper section 4.1), beside those of ``Recipe``.

    Attributes:
        model: architecture of the ViT branch (``crt.list_models``).
        num_passes, attention_power, activation, pool: see ``CRT``.
        cnn: timm CNN of the other branch, or None to train the transformer alone.
        coupling: weight of the distance between the maps of the two branches, the paper's lambda.
        coupling_from: first epoch (from 0) with a coupling.
        single_label: every image shows one class: softmax cross entropy, as in localization (``paper-wsol``).
        mask: weight of the loss on pseudo masks (``mask_loss``); 0 trains on labels alone.
        freeze_backbone: train the head alone, on features that are computed once (``FeatureCache``): ``epochs``,
            ``batch_size``, ``lr`` times ``head_factor``, ``weight_decay`` and ``pool`` apply, crops do not.
        view_scale: factor at which the frozen backbone sees an image.
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
    freeze_backbone: bool = False
    view_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze_backbone and (self.cnn is not None or self.mask):
            raise ValueError("freeze_backbone trains the head of the ViT on labels alone: set cnn=null and mask=0.")


@dataclass(frozen=True)
class RefineRecipe(Recipe):
    """Settings of the refinement stage: the boundary network of IRN (Ahn et al., CVPR 2019).

    ``lr`` is that of the boundary head, ``head_factor`` applies to the displacement head, ``crop`` is a multiple of 4.

    Attributes:
        backbone, output_stride, boundary_width, displacement_width: see ``BoundaryNet``.
        radius: of the pixel pairs in the loss, in cells of 4 pixels.
    """

    epochs: int = 3
    optimizer: Literal["adamw", "sgd"] = "sgd"
    lr: float = 0.1
    weight_decay: float = 1e-4
    warmup: int = 0
    clip: float | None = None
    crop: int = 256
    area: tuple[float, float] | None = None
    long_side: tuple[int, int] = (320, 640)
    backbone: str = "tf_efficientnet_lite0"
    output_stride: int = 16
    boundary_width: int = 32
    displacement_width: int = 64
    radius: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop % 4:
            raise ValueError(f"crop must be a multiple of 4, got {self.crop}.")


@dataclass(frozen=True)
class SegmentRecipe(Recipe):
    """Settings of the segmentation stage, beside those of ``Recipe``; ``area`` makes crops of several scales.

    Attributes:
        arch: "crt", or an architecture of segmentation_models.pytorch (``crt.models.segmentation.ARCHITECTURES``).
        model: architecture of the CRT (``crt.list_models``), for ``arch="crt"`` without a start.
        encoder: encoder of the other architectures, "tu-NAME" for timm's.
        clamp_from: mean loss at which noisy pixels begin to lose their gradient (``segmentation_loss``); None: never.
        clamp_window: side of the windows of that clamp, pixels.
        ema: decay of the moving average of the weights, which is the result; 0 takes the last weights.
    """

    epochs: int = 8
    crop: int = 320
    area: tuple[float, float] | None = (0.2, 1.0)
    jitter: float = 0.4
    arch: str = "crt"
    model: str = "crt_vit_t16"
    encoder: str = "tu-tf_efficientnet_lite2"
    clamp_from: float | None = None
    clamp_window: int = 120
    ema: float = 0.999


@dataclass(frozen=True)
class FrozenRecipe(Settings):
    """Settings of linear layers on the features of a frozen backbone (``crt.train.train_frozen``).

    Attributes:
        model: architecture of the model (``crt.list_models``).
        view_scale, truth_scale: factors at which training images, and images with masks, are seen.
        object_quantile, object_ridge, object_floor: of objectness.
        steps, batch_size, lr, weight_decay: of the classifier that makes the first maps.
        map_spread: power of the spreading of the first maps.
        background_below, object_above: shares of a map's maximum; a patch between the two is ignored.
        batch_patches, head_steps, head_lr, head_weight_decay: of the head.
        rounds: of expectation maximization, each with ``round_steps`` of the head.
        spread: power of the spreading of probabilities.
        confidence: probability above which a patch has a label in the next round.
        margins: how each class's margin over the background is chosen: "otsu" without masks, "tuned" by the IoU of
            patches of images with masks, "tuned-last" so for the result alone and without masks for the labels.
        token_steps, token_lr, token_weight_decay: of the classifier of whole images.
    """

    model: str = "crt_vit_s16"
    view_scale: float = 1.0
    truth_scale: float = 1.0
    object_quantile: float = 0.9
    object_ridge: float = 1e-3
    object_floor: float = 0.05
    steps: int = 1700
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.01
    map_spread: float = 4.0
    background_below: float = 0.38
    object_above: float = 0.55
    batch_patches: int = 4096
    head_steps: int = 2600
    head_lr: float = 2e-3
    head_weight_decay: float = 0.01
    rounds: int = 1
    round_steps: int = 2000
    spread: float = 8.0
    confidence: float = 0.6
    margins: Literal["otsu", "tuned", "tuned-last"] = "otsu"
    token_steps: int = 400
    token_lr: float = 3e-3
    token_weight_decay: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.background_below > self.object_above:
            raise ValueError(f"background_below must be at most object_above, {self.object_above}.")


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

RECIPES: dict[str, Settings] = {
    "t16-voc9k": CAMRecipe(attention_power=0.5),
    "t16-voc9k-masks": CAMRecipe(
        cnn=None, coupling=0.0, attention_power=0.0, activation="sigmoid", pool=0.1, mask=1.0, lr=5e-5
    ),
    "t16-cub50": CAMRecipe(single_label=True, activation="object", epochs=8),
    "s16-voc9k": FrozenRecipe(view_scale=1.25, rounds=2),
    "frozen": CAMRecipe(
        freeze_backbone=True,
        cnn=None,
        coupling=0.0,
        attention_power=0.0,
        epochs=100,
        batch_size=256,
        lr=1e-3,
        weight_decay=1e-3,
    ),
    "paper": _PAPER,
    "paper-wsol": dataclasses.replace(
        _PAPER, num_passes=0, cnn="resnet50", single_label=True, batch_size=64, crop=224, long_side=(256, 256)
    ),
    "segment": SegmentRecipe(),
    "t16-voc9k-segment": SegmentRecipe(epochs=2, crop=256, area=(0.25, 1.0), ema=0.99),
    "segment-deeplab": SegmentRecipe(arch="deeplabv3plus", lr=3e-4, head_factor=3.0),
    "irn-lite0-voc9k": RefineRecipe(),
    "irn-paper": RefineRecipe(
        backbone="resnet50", displacement_width=256, batch_size=32, crop=512, long_side=(250, 750)
    ),
}


@overload
def make_recipe(name: str, changes: Iterable[str] | Mapping[str, Any] = ()) -> Any: ...


@overload
def make_recipe(name: str, changes: Iterable[str] | Mapping[str, Any] = (), *, stage: type[R]) -> R: ...


def make_recipe(
    name: str, changes: Iterable[str] | Mapping[str, Any] = (), *, stage: type[Settings] = Settings
) -> Settings:
    """A named recipe with some settings changed.

    Args:
        name: a name in ``RECIPES``.
        changes: settings by name; or "name=value" each, the value in JSON, where text needs no quotes.
        stage: the recipe must be one of this stage, for example ``CAMRecipe``.

    Raises:
        ValueError: an unknown recipe or setting, or a value of the wrong type or out of range.

    >>> make_recipe("paper", ["epochs=2", "cnn=resnet50"]).cnn
    'resnet50'
    """
    known = [key for key, recipe in RECIPES.items() if isinstance(recipe, stage)]
    if name not in known:
        raise ValueError(f"unknown recipe {str(name)[:60]!r}; there are {', '.join(known)}.")
    recipe, values = RECIPES[name], dict(changes if isinstance(changes, Mapping) else map(_parse, changes))
    fields = [field.name for field in dataclasses.fields(recipe)]
    for setting in values:
        if setting not in fields:
            hint = did_you_mean(str(setting)[:60], fields) or f" There are {', '.join(fields)}."
            raise ValueError(f"unknown setting {str(setting)[:60]!r}.{hint}")
    return dataclasses.replace(recipe, **values)


def _parse(change: str) -> tuple[str, Any]:
    """ "name=value" -> name and value; what is not JSON is text."""
    name, separator, text = change.partition("=")
    if not separator:
        raise ValueError(f"a change is NAME=VALUE, got {change[:60]!r}.")
    try:
        return name.strip(), json.loads(text)
    except RecursionError:
        raise ValueError(f"{name[:60]}: the value is nested too deeply.") from None
    except ValueError:
        return name.strip(), text
