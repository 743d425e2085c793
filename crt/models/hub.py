"""Finding and reading trained weights: config.json and model.safetensors, on this disk or on the Hugging Face Hub.

Safetensors only, nothing is unpickled; loading is strict.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.utils import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from crt._files import require_regular
from crt._messages import printable
from crt.models.config import MAX_PARAMETERS, check_config

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "Source",
    "TransportError",
    "from_hub",
    "from_path",
    "load_features",
    "load_weights",
    "read_checkpoint",
    "read_config",
    "read_normalization",
    "read_weights",
]

TransportError: type[Exception] = HfHubHTTPError.__bases__[0]  # of the HTTP library below huggingface_hub
CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_CONFIG, MAX_HEADER = 4_000_000, 16_000_000  # bytes
FLOATS = ("F16", "BF16", "F32", "F64")


class Source(NamedTuple):
    """Trained weights on this disk.

    Attributes:
        name: what the user called it, for messages.
        weights: the safetensors file.
        config: the constructor's arguments from config.json, empty if there is none.
    """

    name: str
    weights: Path
    config: dict[str, Any]


def from_path(path: str | os.PathLike[str]) -> Source:
    """A folder as ``save_pretrained`` writes it, or a safetensors file (with config.json beside it, or none).

    Raises:
        FileNotFoundError: there is no such file, or the folder lacks one of its two.
        ValueError: the file is not safetensors.
    """
    path, shown = Path(path).expanduser(), printable(path)
    try:
        is_folder, there = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:  # too long a name, a null byte
        raise FileNotFoundError(f"there is no weights file or folder at {shown}: {printable(error)}.") from error
    if is_folder:
        for name in (CONFIG, WEIGHTS):
            if not (path / name).exists():
                raise FileNotFoundError(f"the folder {shown} has no {name}; save_pretrained writes both files.")
        return Source(str(path), path / WEIGHTS, read_config(path / CONFIG))
    if not there:
        raise FileNotFoundError(f"there is no weights file or folder at {shown}.")
    require_regular(path)
    if path.suffix != ".safetensors":
        advice = "convert it once with safetensors.torch.save_file(state_dict, 'model.safetensors')"
        raise ValueError(f"{shown} is not a .safetensors file; {advice}. Other formats can run code when read.")
    beside = path.with_name(CONFIG)
    return Source(str(path), path, read_config(beside) if beside.exists() else {})


def from_hub(
    repo: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    weights: bool = True,
    **download: Any,
) -> Source:
    """A model repository on the Hub (HF_ENDPOINT), through the local cache.

    Args:
        repo: "org/name" or "org/name@revision".
        revision: branch, tag or commit; the default is main.
        cache_dir: cache folder; the default is huggingface_hub's.
        weights: fetch the weights too, not only the configuration.
        download: force_download, token, local_files_only: as in ``hf_hub_download``.

    Raises:
        FileNotFoundError: no such repository, revision or file, or offline and not in the cache.
        OSError: the download failed or is damaged.
        ValueError: no valid repository name.
    """
    repo, _, at = repo.partition("@")
    options = {"revision": revision or at or None, "cache_dir": cache_dir, **download}
    config = _download(repo, CONFIG, options)
    file = _download(repo, WEIGHTS, options) if weights else config.with_name(WEIGHTS)
    name = f"hf-hub:{repo}" + (f"@{options['revision']}" if options["revision"] else "")
    return Source(name, file, read_config(config))


def _download(repo: str, file: str, options: dict[str, Any]) -> Path:
    name = f"{repo}@{options['revision'] or 'main'}"
    try:
        return Path(hf_hub_download(repo, file, **options))
    except HFValidationError as error:
        raise ValueError(
            f"{repo!r} is not a repository on the Hub; expected 'org/name' or 'org/name@revision'."
        ) from error
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError):  # the Hub was reached, and it failed
            raise OSError(f"{file} of {name} could not be downloaded, try again: {error.__cause__}") from error
        raise FileNotFoundError(
            f"{file} of {name} is not in the local cache and cannot be fetched (offline, or the Hub is out of reach). "
            f"Run once with a network and without HF_HUB_OFFLINE=1, or use checkpoint_path= or 'local-dir:PATH'."
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo} has no revision {options['revision']!r} (asked for {file}); check its branches and tags."
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"there is no model repository {repo} on the Hub (asked for {file}), or it is private: check the name, or "
            f"log in with `hf auth login`."
        ) from error
    except EntryNotFoundError as error:
        raise FileNotFoundError(
            f"{name} has no {file}. A CRT repository holds {CONFIG} and {WEIGHTS}, as push_to_hub writes them; pickled "
            f"weights are not read."
        ) from error
    except (TransportError, OSError, ValueError) as error:
        reason = error.__cause__ if isinstance(error, ValueError) else None  # force_download has it there
        raise OSError(f"{file} of {name} could not be downloaded, try again: {reason or error}") from error


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a file; what is in it is not looked at (``crt.models.config.check_config`` does).

    Raises:
        ValueError: it is larger than 4 MB, or not a JSON object.
        OSError: it is not a regular file, or cannot be read.
    """
    if require_regular(path).stat().st_size > MAX_CONFIG:
        raise ValueError(f"{printable(path)} is larger than {MAX_CONFIG} bytes; a model's configuration is not.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else printable(error)
        raise ValueError(
            f"{printable(path)} is not valid JSON ({reason}); save it again, or fetch it again with "
            f"force_download=True."
        ) from error
    if not isinstance(config, dict):
        raise ValueError(
            f"{printable(path)} must hold a JSON object with the model's arguments, as save_pretrained writes it."
        )
    return config


def load_weights(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Copies all tensors into the model, in the model's dtype.

    Raises:
        ValueError: a tensor is missing, left over or of another shape.
    """
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    shapes = [f"{key} {given[key]} for {own[key]}" for key in own if key in given and given[key] != own[key]]
    groups = {
        "missing": [key for key in own if key not in given],
        "left over": [key for key in given if key not in own],
        "of another shape": shapes,
    }
    wrong = [
        f"{what}: {', '.join(printable(key, 100) for key in keys[:3])}{f' and {len(keys) - 3} more' * (len(keys) > 3)}"
        for what, keys in groups.items()
        if keys
    ]
    if wrong:
        raise ValueError(
            f"the weights of {printable(name)} do not fit this {type(model).__name__}; they need the arguments of the "
            f"model that they were saved from (config.json). Tensors {'; '.join(wrong)}."
        )
    model.load_state_dict(state, strict=True)


def load_features(features: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Loads the state dict of a whole timm model into its feature extractor; what comes after is left out.

    Raises:
        ValueError: tensors are missing or of another shape; ``name`` is what the message calls them.
    """
    wanted = features.state_dict().keys()
    load_weights(features, {key: value for key, value in state.items() if key in wanted}, name)


def read_weights(path: Path, name: str) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        ValueError: it is truncated or not safetensors, too large for any model, or holds other than finite floats.
        OSError: it is not a regular file, or cannot be read.
    """
    _check_header(require_regular(path), name)
    try:
        state = load_file(path)
    except (SafetensorError, EOFError) as error:
        raise ValueError(_not_safetensors(path, name, error)) from error
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{printable(name)}: the tensor {printable(key, 100)} has NaN or infinite values: the file is damaged."
            )
    return state


def read_normalization(path: str | os.PathLike[str]) -> dict[str, list[float]]:
    """The mean and std that a weights file (or folder) states, in its safetensors metadata or in config.json beside it.

    Metadata are "mean" and "std", three numbers each in JSON; config.json is timm's (``pretrained_cfg``) or ours.

    Returns:
        "mean" and "std", each only if it is stated.

    Raises:
        ValueError: what is stated is not three finite numbers, or a std is not positive; no safetensors file.
    """
    source = from_path(path)
    _check_header(require_regular(source.weights), source.name)
    with safe_open(source.weights, "pt") as file:
        stated: dict[str, Any] = dict(file.metadata() or {})
    cfg = source.config.get("pretrained_cfg")
    found = {**source.config, **(cfg if isinstance(cfg, dict) else {})}
    for key in ("mean", "std"):
        if key in stated:
            try:
                found[key] = json.loads(stated[key])
            except (ValueError, RecursionError):
                raise ValueError(
                    f"{printable(source.name)}: {key} in its metadata is {printable(repr(stated[key]), 60)}, not three "
                    f"numbers such as [0.5, 0.5, 0.5]."
                ) from None
    return check_config({k: found[k] for k in ("mean", "std") if found.get(k) is not None}, "CRT", source=source.name)


def _check_header(path: Path, name: str) -> None:
    """ValueError unless the file holds floating-point tensors that a model can have; reads no values."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if MAX_HEADER < length < path.stat().st_size:
        raise ValueError(f"{printable(path)} has a header of {length} bytes; at most {MAX_HEADER} are read.")
    try:
        with safe_open(path, "pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            dtypes = {key: piece.get_dtype() for key, piece in slices.items()}
            elements = sum(math.prod(piece.get_shape()) for piece in slices.values())
    except (SafetensorError, EOFError) as error:
        raise ValueError(_not_safetensors(path, name, error)) from error
    for key, dtype in dtypes.items():
        if dtype not in FLOATS and not (dtype == "I64" and key.endswith("num_batches_tracked")):
            raise ValueError(
                f"{printable(name)}: the tensor {printable(key, 100)} is {dtype}; expected {', '.join(FLOATS)}. "
                f"Quantized weights are not read; save the model in float16 or float32."
            )
    if elements > MAX_PARAMETERS:
        raise ValueError(f"{printable(name)} holds {elements} values; at most {MAX_PARAMETERS} are read.")


def _not_safetensors(path: Path, name: str, error: Exception) -> str:
    return (
        f"{printable(path)} ({printable(name)}) is truncated or not a safetensors file ({printable(error)}); fetch or "
        f"save it again."
    )


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a weights file or folder that a user named; raises as ``from_path`` and ``read_weights`` do."""
    file = from_path(path).weights
    return read_weights(file, str(file))
