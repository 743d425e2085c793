"""Checkpoints of a training run: model, optimiser, step and random state in one safetensors file."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from crt._files import tensors_digest, write_tensors

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, settings: dict[str, Any]
) -> None:
    """Writes all that a run needs to go on, whole or not at all.

    Args:
        step: steps done.
        settings: what must be the same when the run goes on.

    Raises:
        OSError: it cannot be written.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": v for name, v in state.items() if isinstance(v, Tensor)}
    tensors["rng"] = torch.get_rng_state()
    tensors |= {f"rng.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    content = {"step": str(step), "settings": json.dumps(settings), "sha256": tensors_digest(tensors)}
    write_tensors(path, tensors, content)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> int:
    """Puts model, optimiser and random state back; returns the steps done.

    Raises:
        ValueError: the file is damaged, or of a run with other settings; the message names them.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if metadata.get("sha256") != tensors_digest(tensors):
            raise ValueError("its tensors are not those that were written")
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it to start the run again.") from error
    before = json.loads(metadata["settings"])
    now = json.loads(json.dumps(settings))
    if changed := sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)):
        details = ", ".join(f"{key}: {before.get(key)} then, {now.get(key)} now" for key in changed)
        raise ValueError(f"{path} is of a run with other settings ({details}); choose another folder for this one.")
    try:
        model.load_state_dict({n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")})
    except RuntimeError as error:
        raise ValueError(f"{path} is of another network; choose another folder for this one.") from error
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    torch.set_rng_state(tensors["rng"])
    for index in range(torch.cuda.device_count()):
        if f"rng.{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"rng.{index}"], index)
    return int(metadata["step"])
