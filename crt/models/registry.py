"""The list of models: architectures by name, and the tags of their trained weights."""

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from crt._messages import did_you_mean

__all__ = [
    "PretrainedCfg",
    "get_pretrained_cfg",
    "is_model",
    "list_models",
    "model_entrypoint",
    "register_model",
    "split_name",
]


@dataclass(frozen=True)
class PretrainedCfg:
    """Where trained weights come from; what they need (classes, normalisation) is in the config.json beside them.

    Attributes:
        hub_id: repository on the Hugging Face Hub, "org/name" or "org/name@revision", or None.
        description: one line for ``list_models`` readers.
    """

    hub_id: str | None = None
    description: str = ""


Entrypoint = TypeVar("Entrypoint", bound=Callable[..., Any])
_entrypoints: dict[str, Callable[..., Any]] = {}
_tags: dict[str, dict[str, PretrainedCfg]] = {}


def register_model(*, tags: Mapping[str, PretrainedCfg] | None = None) -> Callable[[Entrypoint], Entrypoint]:
    """Registers a function as the model of its own name; the first of ``tags`` is the default one."""

    def register(entrypoint: Entrypoint) -> Entrypoint:
        _entrypoints[entrypoint.__name__] = entrypoint
        _tags[entrypoint.__name__] = dict(tags or {})
        return entrypoint

    return register


def list_models(filter: str = "", pretrained: bool = False) -> list[str]:
    """Names of the registered models, sorted.

    Args:
        filter: a pattern such as "*_t16"; text without wildcards matches anywhere.
        pretrained: only the names with trained weights, as "architecture.tag".
    """
    names = [f"{arch}.{tag}" for arch, tags in _tags.items() for tag in tags] if pretrained else list(_entrypoints)
    pattern = filter if any(mark in filter for mark in "*?[") else f"*{filter}*"
    return sorted(name for name in names if fnmatch.fnmatch(name, pattern))


def split_name(name: str) -> tuple[str, str | None]:
    """Splits "architecture.tag"; without a tag it is None.

    Raises:
        ValueError: no such architecture or tag; the message has near names.
    """
    architecture, _, tag = name.partition(".")
    if architecture not in _entrypoints or (tag and tag not in _tags[architecture]):
        known = list_models() + list_models(pretrained=True)
        hint = did_you_mean(name, known, n=3, cutoff=0.5)
        raise ValueError(f"unknown model {name!r}.{hint} crt.list_models() lists all.")
    return architecture, tag or None


def is_model(name: str) -> bool:
    """Whether ``create_model`` knows the name ("architecture" or "architecture.tag")."""
    architecture, _, tag = name.partition(".")
    return architecture in _entrypoints and (not tag or tag in _tags[architecture])


def model_entrypoint(architecture: str) -> Callable[..., Any]:
    return _entrypoints[architecture]


def get_pretrained_cfg(name: str) -> PretrainedCfg | None:
    """The entry of "architecture.tag", of the default tag for a bare architecture, None if it has no weights.

    Raises:
        ValueError: unknown name.
    """
    architecture, tag = split_name(name)
    tag = tag or default_tag(architecture)
    return None if tag is None else _tags[architecture][tag]


def default_tag(architecture: str) -> str | None:
    return next(iter(_tags[architecture]), None)
