"""What a configuration may say: one table of settings with types and bounds, and ``check_config``, which holds to it.

A config.json can come from anywhere, so it is checked before anything is built or downloaded because of it: unknown
keys are refused by name, numbers are finite and bounded, and timm gets no argument but those of ``ARCHITECTURE``.
"""

import math
import numbers
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from crt._messages import did_you_mean, printable
from crt.cam.functional import Activation

__all__ = ["ARCHITECTURE", "MAX_PARAMETERS", "SETTINGS", "Setting", "check_classes", "check_config"]

MAX_PARAMETERS = 1_500_000_000  # of a network; the largest plain ViT of timm that is in use has 1.1e9


class Setting(NamedTuple):
    """What the value of a key must be.

    Attributes:
        kind: "integer", "number" (finite), "bool", "text", "names" (different texts), "three" (numbers, one a channel),
            or "architecture" (a mapping, see ``ARCHITECTURE``).
        low, high: bounds of the value, or of each of three.
        above: whether ``low`` itself is excluded.
        multiple: the value is a multiple of this.
        choices: the only values.
        optional: whether None is one too.
    """

    kind: Literal["integer", "number", "bool", "text", "names", "three", "architecture"]
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    multiple: int = 1
    choices: tuple[Any, ...] = ()
    optional: bool = False


# timm's arguments that class attention follows. No files, no layers by name, nothing that differs between modes.
ARCHITECTURE: Mapping[str, Setting] = {
    "embed_dim": Setting("integer", 1, 4096),
    "depth": Setting("integer", 1, 128),
    "num_heads": Setting("integer", 1, 128),
    "mlp_ratio": Setting("number", 0, 16, above=True),
    "patch_size": Setting("integer", 1, 128),
    "qkv_bias": Setting("bool"),
    "qk_norm": Setting("bool"),
    "proj_bias": Setting("bool"),
    "init_values": Setting("number", 0, 10, above=True, optional=True),
    "class_token": Setting("bool", choices=(True,)),
    "reg_tokens": Setting("integer", 0, 64),
    "no_embed_class": Setting("bool"),
    "pre_norm": Setting("bool"),
}

_BACKBONE = Setting("text")
_CLASSES = Setting("integer", 1, 100_000)
_MEAN = Setting("three", -100, 100, optional=True)
_STD = Setting("three", 1e-4, 1000, optional=True)
_OUTPUT_STRIDE = Setting("integer", 1, 64)

# The arguments of each network's constructor, which are the keys of its config.json.
SETTINGS: Mapping[str, Mapping[str, Setting]] = {
    "CRT": {
        "backbone": _BACKBONE,
        "num_classes": _CLASSES,
        "class_names": Setting("names", optional=True),
        "num_passes": Setting("integer", 0, 64),
        "tile": Setting("integer", 1, 4096),
        "stride": Setting("integer", 1, 4096),
        "image_size": Setting("integer", 1, 4096, optional=True),
        "attention_power": Setting("number", 0, 100),
        "activation": Setting("text", choices=get_args(Activation)),
        "pool": Setting("number", 0, 1, above=True),
        "spread": Setting("number", 0, 64),
        "classifier": Setting("text", choices=("maps", "tokens")),
        "whole": Setting("bool"),
        "mean": _MEAN,
        "std": _STD,
        "seed_threshold": Setting("number", 0, 1),
        "backbone_args": Setting("architecture", optional=True),
    },
    "BoundaryNet": {
        "backbone": _BACKBONE,
        "output_stride": _OUTPUT_STRIDE,
        "boundary_width": Setting("integer", 8, 1024, multiple=8),
        "displacement_width": Setting("integer", 8, 1024, multiple=8),
        "mean": _MEAN,
        "std": _STD,
    },
    "CNNBranch": {
        "backbone": _BACKBONE,
        "num_classes": _CLASSES,
        "output_stride": _OUTPUT_STRIDE,
        "frozen_stride": Setting("integer", 0, 64),
    },
    "SegmentationNet": {
        "library": Setting("text"),
        "arch": Setting("text"),
        "encoder": Setting("text"),
        "num_classes": Setting("integer", 1, 254),  # masks are uint8, and 255 is unsure
        "class_names": Setting("names", optional=True),
        "mean": _MEAN,
        "std": _STD,
    },
}


def check_config(config: Mapping[str, Any], what: str, *, source: str = "") -> dict[str, Any]:
    """The settings as plain Python values, if all of them are known and within bounds.

    NumPy scalars and arrays, tensors of numbers, and class names as a mapping of indices are converted.

    Args:
        config: arguments of a network; not necessarily all.
        what: the network, a key of ``SETTINGS``.
        source: where the configuration comes from, for messages: "config.json of hf-hub:org/name".

    Raises:
        ValueError: an unknown key, or a value of the wrong type or out of bounds; one line, which says what is right.

    >>> check_config({"num_passes": 3, "mean": (0.5, 0.5, 0.5)}, "CRT")
    {'num_passes': 3, 'mean': [0.5, 0.5, 0.5]}
    """
    table, place = SETTINGS[what], f"{printable(source)}: " if source else ""
    if unknown := [key for key in config if key not in table]:
        hint = did_you_mean(str(unknown[0])[:100], table)
        names = printable(", ".join(map(str, unknown[:10])))
        from_file = " It may be of another library or of a newer version of crt-wsss." if source else ""
        raise ValueError(f"{place}{what} has no setting {names} (unknown keys).{hint}{from_file}")
    return {key: _plain_value(value, table[key], f"{place}{key}") for key, value in config.items()}


def check_classes(num_classes: int, class_names: Sequence[str] | None, width: int) -> tuple[int, list[str] | None]:
    """The number of classes and their names, if they agree and a head of ``width`` weights a class is not too large.

    Raises:
        ValueError: they do not; one line, which says what is right.
    """
    given = {"num_classes": num_classes, "class_names": class_names}
    number, names = check_config(given, "CRT").values()
    if names is not None and len(names) != number:
        raise ValueError(f"class_names must be {number} names, got {len(names)}: {_shown(names)}.")
    if number * width > MAX_PARAMETERS:
        raise ValueError(f"a head of {number} classes with {width} weights each has over {MAX_PARAMETERS} parameters.")
    return number, names


def _plain_value(value: Any, setting: Setting, name: str) -> Any:
    """The value as plain Python, or a ValueError that says what ``name`` must be."""
    if value is None and setting.optional:
        return None
    if setting.kind == "names":
        return _names(value, name)
    if setting.kind == "architecture":
        return _architecture(value, name)
    if setting.kind == "three":
        value = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) == 3:
            each = setting._replace(kind="number", optional=False)
            return [_plain_value(part, each, f"each of {name}") for part in value]
        raise ValueError(f"{name} needs three values, one a channel; got {_shown(value)}.")
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    plain = _scalar(value, setting.kind)
    if plain is None or not _within(plain, setting):
        raise ValueError(f"{name} must be {_described(setting)}; got {_shown(value)}.")
    return plain


def _scalar(value: Any, kind: str) -> Any:
    """An int, float, bool or str of this kind, else None."""
    if kind == "bool":
        return value if isinstance(value, bool) else None
    if kind == "text":
        return str(value) if isinstance(value, str) and len(value) <= 200 else None
    if isinstance(value, bool):
        return None
    if kind == "integer":
        return int(value) if isinstance(value, numbers.Integral) else None
    if not isinstance(value, numbers.Real) or (isinstance(value, int) and abs(value) > 1e15):  # float() may overflow
        return None
    plain = float(value)
    return plain if math.isfinite(plain) else None


def _within(value: Any, setting: Setting) -> bool:
    if setting.choices:
        return value in setting.choices
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return True
    above = value > setting.low if setting.above else value >= setting.low
    return above and value <= setting.high and (setting.multiple == 1 or value % setting.multiple == 0)


def _described(setting: Setting) -> str:
    """A value of this kind, in words."""
    if setting.choices:
        return f"one of {', '.join(map(str, setting.choices))}" if len(setting.choices) > 1 else str(setting.choices[0])
    if setting.kind in ("bool", "text"):
        return {"bool": "true or false", "text": "text of at most 200 characters"}[setting.kind]
    kind = "an integer" if setting.kind == "integer" else "a finite number"
    if setting.multiple != 1:
        kind = f"a multiple of {setting.multiple}"
    low = f"{'above' if setting.above else 'at least'} {setting.low:g}"
    return f"{kind}, {low} and at most {setting.high:g}" + (", or null" if setting.optional else "")


def _names(value: Any, name: str) -> list[str]:
    """Different class names, from a sequence of texts or a mapping of 0, 1, 2, ... to them."""
    wanted = f"{name} must be a list of different names"
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        by_index = {str(key): text for key, text in value.items()}
        if by_index.keys() != {str(index) for index in range(len(by_index))}:
            raise ValueError(f"{wanted}, or a mapping whose keys are 0, 1, 2, ...; got the keys {_shown(list(value))}.")
        value = [by_index[str(index)] for index in range(len(by_index))]
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ValueError(f"{wanted}; got {_shown(value)}.")
    for text in value:
        if not isinstance(text, str) or not 0 < len(text) <= 200:
            raise ValueError(f"{wanted}, each a text of 1 to 200 characters; got {_shown(text)}.")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
            raise ValueError(f"{wanted} without control characters; got {_shown(text)}.")
    names = [str(text) for text in value]
    if len(set(names)) != len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise ValueError(f"{wanted}; {_shown(twice)} is there twice.")
    return names


def _architecture(value: Any, name: str) -> dict[str, Any]:
    """timm's arguments, only those that are in ``ARCHITECTURE``."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a mapping of timm's architecture arguments; got {_shown(value)}.")
    for key in value:
        if key not in ARCHITECTURE:
            raise ValueError(
                f"{name}: {_shown(key)} is not accepted.{did_you_mean(str(key)[:100], ARCHITECTURE)} Only what "
                f"shapes the transformer is: {', '.join(ARCHITECTURE)}."
            )
    plain = {key: _plain_value(item, ARCHITECTURE[key], f"{name}: {key}") for key, item in value.items()}
    if plain.get("embed_dim", 0) % plain.get("num_heads", 1):
        raise ValueError(f"{name}: embed_dim {plain['embed_dim']} is not a multiple of num_heads {plain['num_heads']}.")
    return plain


def _shown(value: object) -> str:
    """The value in a message; nothing that is nested or long is written out in full."""
    if isinstance(value, (list, tuple, Mapping)) and any(isinstance(part, (list, tuple, Mapping)) for part in value):
        return f"a nested {type(value).__name__}"
    if isinstance(value, (list, tuple)):
        value = value[:8]
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of more than 30 digits"
    return printable(repr(value[:120] if isinstance(value, str) else value), 120)
