"""Checkpoints of a training run: model, optimizer, step and random state in one safetensors file.

The checkpoint before the last one is kept, so that a damaged file costs a few steps and not the run.  What a file says
is checked before anything of it is used.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from crt._files import require_regular, tensors_digest, write_tensors
from crt._messages import printable

__all__ = ["load_checkpoint", "previous_of", "save_checkpoint"]

logger = logging.getLogger(__name__)


def previous_of(path: Path) -> Path:
    """Where the checkpoint before the last one is: ``checkpoint.previous.safetensors``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, settings: dict[str, Any]
) -> None:
    """Writes all that a run needs to resume, whole or not at all; the checkpoint there becomes the previous one.

    Args:
        step: steps done.
        settings: what must be the same when the run resumes.

    Raises:
        OSError: it cannot be written; the message names the file.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": v for name, v in state.items() if isinstance(v, Tensor)}
    tensors["rng"] = torch.get_rng_state()
    tensors |= {f"rng.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    texts = {"step": str(step), "settings": json.dumps(settings)}
    try:
        _keep(path)
        write_tensors(path, tensors, {**texts, "sha256": _digest(tensors, texts)})
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}.") from error


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any], steps: int
) -> int:
    """Restores model, optimizer and random state; returns the steps done, 0 if there is no checkpoint.

    A damaged checkpoint is passed over with a warning, and the previous one is taken.

    Args:
        settings: those of this run; they must be those of the checkpoint.
        steps: steps of the whole run.

    Raises:
        ValueError: all checkpoints are damaged, or of a run with other settings; the message names them.
    """
    damaged = []
    for file in (path, previous_of(path)):
        if not file.exists():
            continue
        try:
            saved = _read(file)
        except ValueError as error:
            damaged.append(f"{file} is damaged ({error})")
            logger.warning("%s.", damaged[-1])
            continue
        _compare(file, saved.settings, settings)
        if saved.step > steps:
            raise ValueError(f"{file} says that {saved.step} of {steps} steps are done; remove it.")
        _restore(file, saved, model, optimizer)
        logger.info("%s: resumes at step %d of %d", file, saved.step, steps)
        return saved.step
    if damaged:
        raise ValueError(f"{'; '.join(damaged)}. Remove what is damaged to start the run again.")
    return 0


class _Saved(NamedTuple):
    """What a checkpoint holds, checked as far as that is possible without the network."""

    step: int
    settings: dict[str, Any]
    tensors: dict[str, Tensor]


def _keep(path: Path) -> None:
    """Gives the checkpoint at ``path`` a second name, that of the previous one; at no time is there none."""
    if not path.exists():
        return
    link = path.with_name(f".{path.name}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        link = path
    os.replace(link, previous_of(path))


def _digest(tensors: dict[str, Tensor], texts: dict[str, str]) -> str:
    """SHA-256 of the tensors and of what the metadata says."""
    return hashlib.sha256(json.dumps([tensors_digest(tensors), texts["step"], texts["settings"]]).encode()).hexdigest()


def _read(path: Path) -> _Saved:
    """The content of a checkpoint.

    Raises:
        ValueError: it is not whole, or not what ``save_checkpoint`` writes.
    """
    try:
        with safe_open(require_regular(path), "pt") as file:
            texts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(printable(error)) from error
    if not {"step", "settings", "sha256"} <= texts.keys() or texts["sha256"] != _digest(tensors, texts):
        raise ValueError("its content is not what was written")
    try:
        step, settings = int(texts["step"]), json.loads(texts["settings"])
    except (ValueError, RecursionError) as error:
        raise ValueError("its settings cannot be read") from error
    if not isinstance(settings, dict) or step < 0:
        raise ValueError("its settings cannot be read")
    return _Saved(step, settings, tensors)


def _compare(path: Path, before: dict[str, Any], settings: dict[str, Any]) -> None:
    """ValueError unless both settings are equal; it says which are not."""
    now = json.loads(json.dumps(settings))
    if changed := sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)):
        pairs = [f"{printable(key, 40)}: {_short(before.get(key))} then, {_short(now.get(key))} now" for key in changed]
        more = f" and {len(pairs) - 8} more" if len(pairs) > 8 else ""
        raise ValueError(
            f"{path} is of a run with other settings ({', '.join(pairs[:8])}{more}); choose another folder for this "
            f"one."
        )


def _short(value: Any) -> str:
    return printable(value, 40)


def _restore(path: Path, saved: _Saved, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Copies the tensors to where they belong.

    Raises:
        ValueError: they are of another network.
    """
    tensors = saved.tensors
    try:
        model.load_state_dict({n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")})
        optimizer.load_state_dict({**optimizer.state_dict(), "state": _optimizer_state(tensors, optimizer)})
        torch.set_rng_state(tensors["rng"])
        for index in range(torch.cuda.device_count()):
            if f"rng.{index}" in tensors:
                torch.cuda.set_rng_state(tensors[f"rng.{index}"], index)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is of another network; choose another folder for this one.") from error


def _optimizer_state(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """The optimizer's tensors by parameter.

    Raises:
        ValueError: one is not of the shape of its parameter.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            if not index.isdecimal() or int(index) >= len(parameters):
                raise ValueError(name)
            if value.ndim and value.shape != parameters[int(index)].shape:
                raise ValueError(name)
            state.setdefault(int(index), {})[key] = value
    return state
