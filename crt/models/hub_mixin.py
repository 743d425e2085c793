"""``from_pretrained``, ``save_pretrained`` and ``push_to_hub``.

On top of huggingface_hub's mixin: strict loading, safetensors only, and a config.json written from the live model.
"""

import inspect
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import ModelCard, PyTorchModelHubMixin
from huggingface_hub.utils import HfHubHTTPError
from torch import Tensor

from crt._files import whole_file, write_tensors
from crt._messages import printable
from crt.models.card import make_card
from crt.models.config import SETTINGS, check_config
from crt.models.hub import CONFIG, WEIGHTS, Source, from_hub, from_path, load_weights, read_weights

__all__ = ["HubMixin"]

logger = logging.getLogger(__name__)


class HubMixin(PyTorchModelHubMixin, library_name="crt-wsss", license="apache-2.0"):
    """``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` for models with a ``config`` of plain arguments."""

    config_table: ClassVar[str]  # the network's key in ``crt.models.config.SETTINGS``

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as they are now: the contents of config.json."""
        raise NotImplementedError

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
        known = {key: value for key, value in overrides.items() if key in SETTINGS[cls.config_table]}
        overrides |= check_config(known, cls.config_table)
        config = check_config(source.config, cls.config_table, source=f"config.json of {source.name}")
        state = cls.clean_state(read_weights(source.weights, source.name))
        if not config and "head.weight" in state:
            config["num_classes"] = state["head.weight"].shape[0]
        cls._check_size(source, state, build, {**config, **overrides})
        wanted = overrides.pop("num_classes", None)
        new_head = wanted is not None and wanted != config.get("num_classes")
        class_names = overrides.pop("class_names", None) if new_head else None
        names = overrides.get("class_names")
        if names is not None and config.get("class_names") is not None and list(names) != config["class_names"]:
            logger.warning("%s: the head is kept, its %d classes have other names now.", source.name, len(names))
        model: Any = (build or cls)(**{**config, **overrides})
        load_weights(model, model.fit_state(state), source.name)
        if new_head:
            logger.warning("%s: new, untrained head for %d classes (was %d).", source.name, wanted, model.num_classes)
            model.reset_classifier(wanted, class_names)
        return model.eval()

    @classmethod
    def _check_size(
        cls, source: Source, state: dict[str, Tensor], build: Callable[..., Any] | None, config: dict[str, Any]
    ) -> None:
        """ValueError if the configuration is of a network much larger than the weights: it is not built to find out."""
        parameters = {**inspect.signature(cls.__init__).parameters, **inspect.signature(build or cls).parameters}
        settings = {name: parameter.default for name, parameter in parameters.items()} | config
        needed, held = cls.backbone_size(settings), sum(value.numel() for value in state.values())
        if needed > 1.2 * held + 20_000_000:
            raise ValueError(
                f"config.json of {printable(source.name)} describes a network of at least {needed} parameters; its "
                f"weights hold {held}."
            )

    @classmethod
    def backbone_size(cls, settings: Mapping[str, Any]) -> int:
        """Parameters of the backbone that the constructor would build, found without building it."""
        raise NotImplementedError

    @classmethod
    def clean_state(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a file without those that earlier versions wrote and this one does not need."""
        return state

    def fit_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a checkpoint as this model needs them; a model may resample what depends on the input size."""
        return state

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str], *, card: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Writes config.json, model.safetensors and, if there is none, a README.md with the model card.

        Each file is replaced whole or not at all.

        Args:
            save_directory: made if need be; "~" is the home folder.
            card: arguments of ``crt.models.card.make_card``: results, datasets, license, name, notes.
            options: those of ``PyTorchModelHubMixin.save_pretrained``.

        Raises:
            ValueError: the configuration could not be loaded again.
            OSError: the folder cannot be written, or the disk is full; the message names it.
        """
        check_config(self.config, self.config_table)
        folder = Path(save_directory).expanduser()
        if options.get("push_to_hub"):
            options.setdefault("repo_id", folder.name)
        options["model_card_kwargs"] = {**(options.get("model_card_kwargs") or {}), **(card or {})}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as staging:
                url = super().save_pretrained(staging, **options)
                for file in Path(staging).iterdir():
                    if file.name != "README.md" or not (folder / "README.md").exists():
                        os.replace(file, folder / file.name)
        except OSError as error:
            if str(save_directory) in str(error) or isinstance(error, HfHubHTTPError):
                raise
            raise OSError(f"the model cannot be saved in {printable(folder)}: {printable(error)}") from error
        return url

    def _save_pretrained(self, save_directory: Path) -> None:
        write_tensors(save_directory / WEIGHTS, self.state_dict(), {"format": "pt"})  # type: ignore[attr-defined]
        with whole_file(save_directory / CONFIG) as temporary:
            temporary.write_text(json.dumps(self.config, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def push_to_hub(self, repo_id: str, *, card: Mapping[str, Any] | None = None, **options: Any) -> str:  # type: ignore[override]
        """Uploads what ``save_pretrained`` writes; options are those of ``PyTorchModelHubMixin.push_to_hub``."""
        given = options.get("model_card_kwargs") or {}
        options["model_card_kwargs"] = {"repo_id": repo_id, **given, **(card or {})}
        return super().push_to_hub(repo_id, **options)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card, with the arguments of ``crt.models.card.make_card``."""
        return make_card(self.config, self.config_table, **kwargs)
