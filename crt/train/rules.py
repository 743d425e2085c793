"""What each setting of a recipe may be.

A recipe comes from the command line or from a file, so each setting has one rule: its type, its range and the words
that say so.
"""

import numbers
import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

from crt.cam.functional import Activation

__all__ = ["RULES", "check_setting"]


class Rule(NamedTuple):
    """How a value is converted, and the words for what is allowed.

    Attributes:
        convert: returns the value as a plain Python value; raises ValueError if it is not allowed.
        wanted: completes "NAME must be ...".
    """

    convert: Callable[[Any], Any]
    wanted: str


def check_setting(name: str, value: Any) -> Any:
    """The value of a setting as a plain Python value.

    Raises:
        ValueError: the value has the wrong type or is out of range; the message is short whatever the value.
    """
    convert, wanted = RULES[name]
    try:
        return convert(value)
    except ValueError:
        raise ValueError(f"{name} must be {wanted}, got {_SHORT.repr(value)}.") from None


_SHORT = reprlib.Repr()  # unlike repr, it never writes out what is long or deep
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError


def _whole(low: int, high: int) -> Rule:
    def convert(value: Any) -> int:
        _require(isinstance(value, numbers.Integral) and not isinstance(value, bool))
        _require(low <= int(value) <= high)
        return int(value)

    return Rule(convert, f"a whole number from {low} to {high}")


def _real(low: float, high: float, *, above: bool = False) -> Rule:
    def convert(value: Any) -> float:
        _require(isinstance(value, numbers.Real) and not isinstance(value, bool))
        _require(low <= value <= high and not (above and value == low))  # NaN compares as False
        return float(value)

    return Rule(convert, f"a number {'above' if above else 'from'} {low:g} {'and at most' if above else 'to'} {high:g}")


def _choice(*names: str) -> Rule:
    def convert(value: Any) -> str:
        _require(isinstance(value, str) and value in names)
        return str(value)

    return Rule(convert, f"one of {', '.join(names)}")


def _flag() -> Rule:
    def convert(value: Any) -> bool:
        _require(type(value).__name__ in ("bool", "bool_"))
        return bool(value)  # Python's or numpy's

    return Rule(convert, "true or false")


def _text() -> Rule:
    def convert(value: Any) -> str:
        _require(isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable())
        return value

    return Rule(convert, "a name")


def _range(rule: Rule) -> Rule:
    """Two values of a rule, the first not above the second."""

    def convert(value: Any) -> tuple[Any, Any]:
        _require(isinstance(value, list | tuple) and len(value) == 2)
        low, high = (rule.convert(each) for each in value)
        _require(low <= high)
        return low, high

    return Rule(convert, f"two values [low, high], each {rule.wanted}, low <= high")


def _optional(rule: Rule) -> Rule:
    return Rule(lambda value: None if value is None else rule.convert(value), f"{rule.wanted}, or null")


RULES = {
    # all stages
    "epochs": _whole(1, 10_000),
    "batch_size": _whole(1, 65_536),
    "optimizer": _choice("adamw", "sgd"),
    "lr": _real(0, 1000, above=True),
    "weight_decay": _real(0, 10),
    "head_factor": _real(0, 1e6, above=True),
    "warmup": _whole(0, 10**7),
    "power": _real(0, 100),
    "clip": _optional(_real(0, 1e9, above=True)),
    "crop": _whole(1, 8192),
    "area": _optional(_range(_real(0, 1, above=True))),
    "long_side": _range(_whole(1, 16_384)),
    "jitter": _real(0, 1),
    # the CAM stage
    "model": _text(),
    "num_passes": _whole(0, 100),
    "attention_power": _real(0, 100),
    "activation": _choice(*get_args(Activation)),
    "pool": _real(0, 1, above=True),
    "cnn": _optional(_text()),
    "coupling": _real(0, 1e6),
    "coupling_from": _whole(0, 10_000),
    "single_label": _flag(),
    "mask": _real(0, 1e6),
    "freeze_backbone": _flag(),
    "view_scale": _real(0, 16, above=True),
    # heads on cached features
    "batch_patches": _whole(1, 10**6),
    "standardize": _flag(),
    "label_smoothing": _real(0, 0.9),
    "clamp": _real(0, 1, above=True),
    "ema": _real(0, 0.9999),
    # a frozen backbone
    "truth_scale": _real(0, 16, above=True),
    "object_quantile": _real(0, 1, above=True),
    "object_ridge": _real(0, 1000, above=True),
    "object_floor": _real(0, 1),
    "steps": _whole(1, 10**7),
    "map_spread": _real(0, 100, above=True),
    "background_below": _real(0, 1),
    "object_above": _real(0, 1),
    "head_steps": _whole(1, 10**7),
    "head_lr": _real(0, 1000, above=True),
    "head_weight_decay": _real(0, 10),
    "rounds": _whole(0, 100),
    "round_steps": _whole(1, 10**7),
    "spread": _real(0, 100),
    "confidence": _real(0, 1),
    "margins": _choice("otsu", "tuned", "tuned-last"),
    "token_steps": _whole(1, 10**7),
    "token_lr": _real(0, 1000, above=True),
    "token_weight_decay": _real(0, 10),
    # the segmentation stage
    "arch": _text(),
    "encoder": _text(),
    "clamp_from": _optional(_real(0, 100, above=True)),
    "clamp_window": _whole(1, 8192),
    # the refinement stage
    "backbone": _text(),
    "output_stride": _whole(4, 32),
    "boundary_width": _whole(8, 4096),
    "displacement_width": _whole(8, 4096),
    "radius": _whole(2, 100),
}
