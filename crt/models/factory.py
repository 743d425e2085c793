"""``create_model``: a name to a model."""

import inspect
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm

from crt.cam.functional import Activation
from crt.models.backbones import timm_model
from crt.models.crt import CRT
from crt.models.hub import Source, from_hub, from_path, read_checkpoint
from crt.models.registry import default_tag, get_pretrained_cfg, list_models, model_entrypoint, split_name

__all__ = ["create_model"]

logger = logging.getLogger(__name__)
BUNDLED = Path(__file__).parents[1] / "weights"


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    num_passes: int | None = None,
    tile: int | None = None,
    stride: int | None = None,
    attention_power: float | None = None,
    activation: Activation | None = None,
    pool: float | None = None,
    backbone: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    checkpoint_path: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    pretrained_backbone: bool = False,
    backbone_checkpoint: str | os.PathLike[str] | None = None,
) -> CRT:
    """Builds a model by name, as timm does.

    Args:
        name: "architecture" or "architecture.tag" (``crt.list_models``), "hf-hub:org/name@revision", "local-dir:PATH".
        pretrained: load trained weights: those of ``checkpoint_path``, else the ones bundled with the package, else
            those on the Hub.
        num_classes: number of classes; with trained weights for another number the head is new, with a warning.
        class_names: their names; trained weights of the same number of classes keep their head, with a warning.
        num_passes, tile, stride, attention_power, activation, pool: see ``CRT``; None takes the value of the weights or
            of the architecture.
        backbone: another timm ViT than the architecture's.
        mean, std: normalisation, three values each; None takes that of the weights the model starts from.
        checkpoint_path: a safetensors file or a folder of ``save_pretrained``; loaded whether or not ``pretrained``.
        cache_dir: cache of the Hub.
        pretrained_backbone: start from timm's ImageNet weights of the backbone.
        backbone_checkpoint: start from these ImageNet weights, a safetensors file in timm's layout.  Where its name
            begins with that of a timm model ("deit_tiny_patch16_224.safetensors"), mean and std are that model's;
            otherwise the backbone's.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        ValueError: an unknown name, weights that do not fit, arguments that exclude each other.
        FileNotFoundError, OSError: weights that cannot be found or fetched.
    """
    if sum([pretrained or checkpoint_path is not None, pretrained_backbone, backbone_checkpoint is not None]) > 1:
        raise ValueError(
            "give only one of pretrained (or checkpoint_path), pretrained_backbone and backbone_checkpoint."
        )
    if not isinstance(name, str):
        raise TypeError(f"a model's name is text, got {type(name).__name__}; for a folder write 'local-dir:{name}'.")
    if isinstance(class_names, str):
        raise TypeError(f"class_names is a list of names, got the text {class_names!r}.")
    if backbone_checkpoint is not None and mean is None and std is None:
        mean, std = _normalisation_of(Path(backbone_checkpoint))
    asked: dict[str, Any] = {
        "num_classes": num_classes if num_classes is not None or class_names is None else len(class_names),
        "class_names": class_names,
        "num_passes": num_passes,
        "tile": tile,
        "stride": stride,
        "attention_power": attention_power,
        "activation": activation,
        "pool": pool,
        "backbone": backbone,
        "mean": mean,
        "std": std,
    }
    asked = {key: value for key, value in asked.items() if value is not None}
    build = CRT if _is_address(name) else model_entrypoint(split_name(name)[0])
    source = _locate(name, pretrained, checkpoint_path, cache_dir)
    if source is not None and (pretrained or checkpoint_path is not None):
        _check_backbone(name, build, source, backbone)
        return CRT.from_source(source, build=build, **asked)
    if source is not None and _is_address(name):
        logger.warning("%s: built with random weights; pass pretrained=True to load the trained ones.", name)
    model = build(**{**(source.config if source else {}), **asked})
    if pretrained_backbone:
        weights = timm_model(model.backbone_name, pretrained=True, num_classes=0, **model.backbone_args).state_dict()
        model.load_backbone(weights, f"timm's {model.backbone_name}")
    elif backbone_checkpoint is not None:
        model.load_backbone(read_checkpoint(backbone_checkpoint), str(backbone_checkpoint))
    return model.eval()


def _is_address(name: str) -> bool:
    """Whether a name says where to look, rather than what for."""
    if name.startswith(("hf-hub:", "local-dir:")):
        return True
    if "/" in name or "\\" in name:
        raise ValueError(
            f"{name!r} is no model name. Write 'hf-hub:{name}' if it is on the Hub, "
            f"'local-dir:{name}' if it is a folder on this disk."
        )
    return False


def _locate(
    name: str,
    pretrained: bool,
    checkpoint_path: str | os.PathLike[str] | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Source | None:
    """Where the weights (or at least the configuration) are: given path, address, bundled, Hub; None if nowhere.

    Raises:
        ValueError: trained weights are asked for, and the name has none.
    """
    if checkpoint_path is not None:
        return from_path(checkpoint_path)
    if name.startswith("hf-hub:"):
        return from_hub(name.removeprefix("hf-hub:"), cache_dir=cache_dir, weights=pretrained)
    if name.startswith("local-dir:"):
        return from_path(name.removeprefix("local-dir:"))
    architecture, tag = split_name(name)
    if not (pretrained or tag):
        return None
    cfg, tag = get_pretrained_cfg(name), tag or default_tag(architecture)
    bundled = BUNDLED / f"{architecture}.{tag}"
    if bundled.is_dir():
        return from_path(bundled)
    if cfg is not None and cfg.hub_id is not None:
        return from_hub(cfg.hub_id, cache_dir=cache_dir)
    raise ValueError(
        f"there are no trained weights of {name}. With trained weights: {', '.join(list_models(pretrained=True))}. "
        f"Start from ImageNet weights with pretrained_backbone=True, or load your own with checkpoint_path=."
    )


def _check_backbone(name: str, build: Any, source: Source, asked: str | None) -> None:
    """Weights of another architecture than the one that was named are a mistake, unless the backbone was named too."""
    parameter = inspect.signature(build).parameters.get("backbone")
    if parameter is None or asked is not None or _is_address(name):
        return
    default = parameter.default
    found = source.config.get("backbone", default)
    if found != default:
        raise ValueError(
            f"{source.name} was trained with the backbone {found}, {name} has {default}. Add backbone={found!r}, or "
            f"load a folder by 'local-dir:PATH'."
        )


def _normalisation_of(checkpoint: Path) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """mean and std of the timm model that a weights file is named after, if it is."""
    parts = checkpoint.name.split(".")
    names = [".".join(parts[:2]), parts[0]]  # architecture.tag, architecture
    cfg = next((cfg for name in names if (cfg := _timm_cfg(name)) is not None), None)
    return (None, None) if cfg is None else (cfg.mean, cfg.std)


def _timm_cfg(name: str) -> Any:
    known = name in timm.list_pretrained() if "." in name else timm.is_model(name)
    return timm.get_pretrained_cfg(name) if known else None
