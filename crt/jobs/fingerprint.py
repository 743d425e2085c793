"""What a pseudo mask depends on, as plain JSON: model, weights, extraction, refiner, cleaning and version."""

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from crt._files import tensors_digest

__all__ = ["JSON", "describe", "differences"]

JSON: TypeAlias = bool | int | float | str | list["JSON"] | dict[str, "JSON"] | None

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # what torch itself keeps in a module
_SAME_RESULT = frozenset({"batch_size", "progress"})  # settings that change no pixel
_DEPTH = 12


def describe(value: object, *, without: frozenset[str] = _SAME_RESULT) -> JSON:
    """A setting, module, function or plain object as JSON that changes whenever the value does.

    A module is its class, its settings and its submodules', and the SHA-256 of its parameters and buffers; one that has
    a ``config`` (as ``CRT`` has) is described by that.  A function is its name and its defaults.

    Args:
        value: what to describe.
        without: names of attributes that change no pixel.

    >>> describe((0.5, 1))
    [0.5, 1]
    >>> describe(functools.partial(round, ndigits=2))
    {'function': 'builtins.round', 'arguments': {'ndigits': 2}}
    """
    return _described(value, without, 0)


def differences(before: JSON, after: JSON, name: str = "") -> list[str]:
    """Where two descriptions differ, one "name: then, now" for each leaf.

    >>> differences({"flip": True, "model": {"tile": 64}}, {"flip": True, "model": {"tile": 224}})
    ['model.tile: 64 then, 224 now']
    """
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in sorted(before.keys() | after.keys()):
            found += differences(before.get(key), after.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if before == after else [f"{name}: {_short(before)} then, {_short(after)} now"]


def _short(value: JSON, limit: int = 80) -> str:
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _described(value: object, without: frozenset[str], depth: int) -> JSON:
    if depth > _DEPTH:
        return _name_of(type(value))
    inner = functools.partial(_described, without=without, depth=depth + 1)
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": tensors_digest({"": value})}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, nn.Module):
        return {**_module(value, without, depth), "weights": _weights(value)}
    if isinstance(value, Mapping):
        return {str(key): inner(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((inner(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [inner(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: inner(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)  # type: ignore[no-any-return]
    if callable(value):
        return _function(value, without, depth)
    item = getattr(value, "item", None)  # a NumPy scalar
    if callable(item) and getattr(value, "shape", None) == ():
        return inner(item())
    settings = {key: inner(item) for key, item in getattr(value, "__dict__", {}).items() if key not in without}
    return {"class": _name_of(type(value)), **settings}


def _module(module: nn.Module, without: frozenset[str], depth: int) -> dict[str, JSON]:
    """Class and settings of a module and of those below it; the weights are told once, for the whole."""
    told: dict[str, JSON] = {"class": _name_of(type(module))}
    if isinstance(config := getattr(module, "config", None), Mapping):
        return {**told, "config": _described(config, without, depth + 1)}
    for key, value in vars(module).items():
        if key not in _OF_EVERY_MODULE and key not in without:
            told[key] = _described(value, without, depth + 1)
    for key, child in module.named_children():
        told[key] = _module(child, without, depth + 1)
    return told


def _weights(module: nn.Module) -> str | None:
    """SHA-256 of all parameters and buffers, also those that a state dict leaves out; None if there are none."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return tensors_digest(tensors) if tensors else None


def _function(function: Callable[..., object], without: frozenset[str], depth: int) -> JSON:
    """The name of a function, its defaults and, of a partial one, its arguments; of another callable its settings."""
    inner = functools.partial(_described, without=without, depth=depth + 1)
    if isinstance(function, functools.partial):
        whole = _function(function.func, without, depth)
        told = dict(whole) if isinstance(whole, dict) else {"function": whole}
        given: dict[str, JSON] = {str(i): inner(value) for i, value in enumerate(function.args)}
        before = told.get("arguments")
        given = {**(before if isinstance(before, dict) else {}), **given}
        return {**told, "arguments": {**given, **{key: inner(item) for key, item in function.keywords.items()}}}
    if not hasattr(function, "__qualname__"):
        settings = {key: inner(item) for key, item in vars(function).items() if key not in without}
        return {"class": _name_of(type(function)), **settings}
    name = f"{function.__module__}.{function.__qualname__}"
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {"function": name}
    defaults: dict[str, JSON] = {
        p.name: inner(p.default) for p in parameters if p.default not in (inspect.Parameter.empty, None)
    }
    found: dict[str, JSON] = {"function": name, **({"arguments": defaults} if defaults else {})}
    if cells := getattr(function, "__closure__", None):
        found["closure"] = [inner(cell.cell_contents) for cell in cells]
    owner = getattr(function, "__self__", None)
    return {**found, "of": inner(owner)} if owner is not None and not inspect.ismodule(owner) else found


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def autocast_of(device: torch.device) -> str | None:
    """The dtype that autocast computes in on a device, or None where it is off."""
    one = torch.ones(1, 1, device=device, dtype=torch.float32)
    computed = (one @ one).dtype  # torch before 2.4 does not say it of any device
    return None if computed == torch.float32 else str(computed).removeprefix("torch.")
