"""Folders with config.json and model.safetensors, on this disk or on the Hugging Face Hub: finding, reading, writing.

Safetensors only; loading is strict; config.json is written from the live model.
"""

import hashlib
import inspect
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["HubMixin", "Source", "TransportError", "from_hub", "from_path", "load_weights", "read_config", "read_weights"]

logger = logging.getLogger(__name__)
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
    **download: Any,
) -> Source:
    """A model repository on the Hub (HF_ENDPOINT), through the local cache.

    Args:
        repo: "org/name" or "org/name@revision".
        revision: branch, tag or commit; the default is main.
        cache_dir: cache folder; the default is huggingface_hub's.
        download: force_download, token, local_files_only: as in ``hf_hub_download``.

    Raises:
        FileNotFoundError: no such repository, revision or file, or offline and not in the cache.
        OSError: the download failed or is damaged.
        ValueError: no valid repository name.
    """
    repo, _, at = repo.partition("@")
    options = {"revision": revision or at or None, "cache_dir": cache_dir, **download}
    config = _download(repo, CONFIG, options)
    weights = _download(repo, WEIGHTS, options)
    return Source(f"hf-hub:{repo}" + (f"@{options['revision']}" if options["revision"] else ""), weights, read_config(config))


def _download(repo: str, file: str, options: dict[str, Any]) -> Path:
    name = f"{repo}@{options['revision'] or 'main'}"
    try:
        path = Path(hf_hub_download(repo, file, **options))
    except HFValidationError as error:
        raise ValueError(f"{repo!r} is no repository on the Hub; expected 'org/name' or 'org/name@revision'.") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{file} of {name} is not in the local cache and cannot be fetched (offline, or the Hub is out of reach). "
            f"Run once with a network and without HF_HUB_OFFLINE=1, or use checkpoint_path= or 'local-dir:PATH'."
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repo} has no revision {options['revision']!r} (asked for {file}); check its branches and tags.") from error
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
    except (TransportError, OSError) as error:
        raise OSError(f"{file} of {name} could not be downloaded: {error} Try again; what has come is kept.") from error
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
            f"{path.name} of {name} is damaged: its SHA-256 is {found[:12]}..., the Hub says {blob.name[:12]}.... It was removed "
            f"from the cache; try again."
        )


def read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object with the model's arguments.")
    return config


def load_weights(model: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Copies all tensors into the model, in the model's dtype; nothing may be missing, left over or of another shape."""
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights of {name} do not fit this {type(model).__name__}: {error}") from error


def read_weights(path: Path, name: str) -> dict[str, Tensor]:
    """Raises: ValueError if the file is truncated or no safetensors."""
    try:
        return load_file(path)
    except (SafetensorError, EOFError) as error:
        raise ValueError(f"{path} ({name}) is truncated or no safetensors file ({error}); fetch or save it again.") from error


class HubMixin(PyTorchModelHubMixin, library_name="crt-wsss", license="apache-2.0"):
    """``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` for models with a ``config`` of plain arguments."""

    config: dict[str, Any]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> Any:
        """A model from a folder or from the Hub ("org/name" or "org/name@revision"), in evaluation mode.

        Args:
            overrides: arguments of the constructor that replace those in config.json.  With another ``num_classes`` the
                head is new and untrained.
        """
        if os.path.isdir(pretrained_model_name_or_path):
            source = from_path(pretrained_model_name_or_path)
        else:
            source = from_hub(
                str(pretrained_model_name_or_path).removeprefix("hf-hub:"),
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
            )
        return cls.from_source(source, **overrides)

    @classmethod
    def from_source(cls, source: Source, *, build: Callable[..., Any] | None = None, **overrides: Any) -> Any:
        """Builds the model that the source's config describes and loads its weights, strictly.

        Args:
            source: where the weights are.
            build: called with the configuration instead of the class itself: a registered model, for its defaults.
            overrides: arguments that replace those of the config.

        Raises:
            ValueError: the config has unknown keys, or the weights do not fit.
        """
        known = inspect.signature(cls.__init__).parameters.keys() - {"self"}
        if unknown := source.config.keys() - known:
            raise ValueError(
                f"config.json of {source.name} has unknown keys: {', '.join(sorted(unknown))}. It may be of another "
                f"library or of a newer version of crt-wsss."
            )
        state = read_weights(source.weights, source.name)
        config = dict(source.config)
        if not config and "head.weight" in state:
            config["num_classes"] = state["head.weight"].shape[0]
        wanted = overrides.pop("num_classes", None)
        new_head = wanted is not None and wanted != config.get("num_classes")
        class_names = overrides.pop("class_names", None) if new_head else None
        model = (build or cls)(**{**config, **overrides})
        load_weights(model, model.fit_state(state), source.name)
        if new_head:
            logger.warning("%s: new, untrained head for %d classes (was %d).", source.name, wanted, model.num_classes)
            model.reset_classifier(wanted, class_names)
        return model.eval()

    def fit_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a checkpoint as this model needs them; a model may resample what depends on the input size."""
        return state

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> Any:  # type: ignore[override]
        """Writes config.json, model.safetensors and, if there is none, a README.md with the model card.

        Each file is replaced whole or not at all; options are those of ``PyTorchModelHubMixin.save_pretrained``.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        if options.get("push_to_hub"):
            options.setdefault("repo_id", folder.name)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as staging:
            url = super().save_pretrained(staging, **options)
            for file in Path(staging).iterdir():
                if file.name != "README.md" or not (folder / "README.md").exists():
                    os.replace(file, folder / file.name)
        return url

    def _save_pretrained(self, save_directory: Path) -> None:
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}  # type: ignore[attr-defined]
        save_file(state, save_directory / WEIGHTS, metadata={"format": "pt"})
        (save_directory / CONFIG).write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card: what the model is, its configuration, how to load it."""
        config = self.config
        names = config.get("class_names")
        classes = f"{config.get('num_classes')}" + (f": {', '.join(names)}" if names else " (without names)")
        repo = kwargs.get("repo_id", "ORG/NAME")
        return ModelCard(
            f"""---
library_name: crt-wsss
license: apache-2.0
pipeline_tag: image-segmentation
tags:
- weakly-supervised-semantic-segmentation
- class-activation-map
- crt-wsss
---

# A {type(self).__name__} model of crt-wsss

It turns image-level labels into class activation maps (CRT, arXiv 2209.15211).

| argument | value |
|---|---|
""" + "\n".join(f"| {key} | {value} |" for key, value in config.items() if key != "class_names") + f"""
| classes | {classes} |

```python
import crt

model = crt.create_model("hf-hub:{repo}", pretrained=True)
cams = model.cam(img, labels)  # (B, K, H, W) in [0, 1]
```

Please add: training data and its licence, recipe, seed, measured results with list and threshold, limits.
"""
        )
