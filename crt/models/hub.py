"""Finding and reading trained weights: config.json and model.safetensors, on this disk or on the Hugging Face Hub.

Safetensors only, nothing is unpickled; loading is strict.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.utils import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

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
    "read_weights",
]

# The base error of the HTTP library below huggingface_hub, whichever it is (requests, httpx, httpx2).
TransportError: type[Exception] = HfHubHTTPError.__bases__[0]
CONFIG, WEIGHTS = "config.json", "model.safetensors"


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
        ValueError: the file is no safetensors.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        for name in (CONFIG, WEIGHTS):
            if not (path / name).is_file():
                raise FileNotFoundError(f"the folder {path} has no {name}; save_pretrained writes both files.")
        return Source(str(path), path / WEIGHTS, read_config(path / CONFIG))
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file or folder at {path}.")
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is not a .safetensors file; other formats can run code when they are read. Convert it once with "
            f"safetensors.torch.save_file(state_dict, 'model.safetensors')."
        )
    beside = path.with_name(CONFIG)
    return Source(str(path), path, read_config(beside) if beside.is_file() else {})


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
        path = Path(hf_hub_download(repo, file, **options))
    except HFValidationError as error:
        raise ValueError(
            f"{repo!r} is no repository on the Hub; expected 'org/name' or 'org/name@revision'."
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
    _check_hash(path, name)
    return path


def _check_hash(path: Path, name: str) -> None:
    """Large files lie in the cache under their SHA-256; a file that does not match is removed."""
    blob = path.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return
    digest = hashlib.sha256()
    with open(blob, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    found = digest.hexdigest()
    if found != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise OSError(
            f"{path.name} of {name} is damaged: its SHA-256 is {found[:12]}..., the Hub says {blob.name[:12]}.... "
            f"It was removed from the cache; try again."
        )


def read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); save it again, or fetch it again with force_download=True."
        ) from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object with the model's arguments, as save_pretrained writes it.")
    return config


def load_weights(model: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Copies all tensors into the model, in the model's dtype.

    Raises:
        ValueError: a tensor is missing, left over or of another shape.
    """
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"the weights of {name} do not fit this {type(model).__name__}; they need the arguments of the model that "
            f"they were saved from (config.json): {error}"
        ) from error


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
        ValueError: it is truncated or no safetensors.
    """
    try:
        return load_file(path)
    except (SafetensorError, EOFError) as error:
        raise ValueError(
            f"{path} ({name}) is truncated or no safetensors file ({error}); fetch or save it again."
        ) from error


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a weights file or folder that a user named; raises as ``from_path`` and ``read_weights`` do."""
    file = from_path(path).weights
    return read_weights(file, str(file))
