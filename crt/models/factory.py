"""``create_model``: a name to a model."""

import inspect
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crt._messages import did_you_mean, printable
from crt.models.backbones import timm_model
from crt.models.config import SETTINGS, check_config
from crt.models.crt import CRT
from crt.models.hub import Source, from_hub, from_path, read_checkpoint, read_normalization
from crt.models.registry import default_tag, get_pretrained_cfg, list_models, model_entrypoint, split_name
from crt.models.segmentation import LIBRARY, SegmentationNet

__all__ = ["create_model"]

logger = logging.getLogger(__name__)
BUNDLED = Path(__file__).parents[1] / "weights"


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    checkpoint_path: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    pretrained_backbone: bool = False,
    backbone_checkpoint: str | os.PathLike[str] | None = None,
    **changes: Any,
) -> CRT:
    """Builds a model by name, as timm does.

    Args:
        name: "architecture" or "architecture.tag" (``crt.list_models``), "hf-hub:org/name@revision", "local-dir:PATH".
        pretrained: load trained weights: those of ``checkpoint_path``, else the ones bundled with the package, else
            those on the Hub.
        checkpoint_path: a safetensors file or a folder of ``save_pretrained``; loaded whether or not ``pretrained``.
        cache_dir: cache of the Hub.
        pretrained_backbone: start from timm's ImageNet weights of the backbone.
        backbone_checkpoint: start from these weights of a plain ViT, a safetensors file in timm's layout. Patch size,
            position grid and LayerScale may differ (``fit_plain_vit``). Mean and std are those in the file's metadata
            ("mean", "std") or in config.json beside it, else the backbone's, which a log line then says.
        changes: settings of ``CRT`` that replace those of the weights or of the architecture: backbone, num_classes,
            class_names, num_passes, tile, stride, attention_power, activation, pool, mean, std, seed_threshold,
            backbone_args. None leaves a setting as it is. With trained weights for another number of classes the head
            is new, with a warning; with other names for the same number it is kept, with a warning.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        TypeError: an argument that there is not.
        ValueError: an unknown name, weights that do not fit, settings out of bounds, arguments that exclude each other.
        FileNotFoundError, OSError: weights that cannot be found or fetched.

    >>> create_model("crt_vit_t16", class_names=["ripe", "unripe"]).num_classes
    2
    """
    if sum([pretrained or checkpoint_path is not None, pretrained_backbone, backbone_checkpoint is not None]) > 1:
        raise ValueError(
            "give only one of pretrained (or checkpoint_path), pretrained_backbone and backbone_checkpoint."
        )
    if not isinstance(name, str):
        raise TypeError(f"a model's name is text, got {type(name).__name__}; for a folder write 'local-dir:{name}'.")
    build = CRT if _is_address(name) else model_entrypoint(split_name(name)[0])
    changes = _checked(changes, build)
    source = _locate(name, pretrained, checkpoint_path, cache_dir)
    if source is not None and source.config.get("library") == LIBRARY:
        return _segmentation_net(source, pretrained or checkpoint_path is not None, changes)
    if source is not None and (pretrained or checkpoint_path is not None):
        _check_backbone(name, build, source, changes.get("backbone"))
        return CRT.from_source(source, build=build, **changes)
    if source is not None and _is_address(name):
        logger.warning("%s: built with random weights; pass pretrained=True to load the trained ones.", name)
    config = check_config(source.config, "CRT", source=f"config.json of {source.name}") if source else {}
    if backbone_checkpoint is not None:
        changes = {**read_normalization(backbone_checkpoint), **changes}
    model = build(**{**config, **changes})
    if pretrained_backbone:
        weights = timm_model(model.backbone_name, pretrained=True, num_classes=0, **model.backbone_args).state_dict()
        model.load_backbone(weights, f"timm's {model.backbone_name}")
    elif backbone_checkpoint is not None:
        model.load_backbone(read_checkpoint(backbone_checkpoint), str(backbone_checkpoint))
        if not {"mean", "std"} <= changes.keys():
            logger.warning(
                "%s does not state its mean and std; taken are those of %s, mean %s and std %s. Pass mean= and std= if "
                "its weights were trained with others.",
                printable(backbone_checkpoint),
                model.backbone_name,
                model.config["mean"],
                model.config["std"],
            )
    return model.eval()


def _checked(changes: dict[str, Any], build: Callable[..., CRT]) -> dict[str, Any]:
    """The settings that are not None, as plain values; the number of classes follows from their names."""
    changes = {key: value for key, value in changes.items() if value is not None}
    own = [key for key in inspect.signature(build).parameters if key not in ("arguments", "kwargs")]
    if unknown := [key for key in changes if key not in SETTINGS["CRT"] and key not in own]:
        hint = did_you_mean(unknown[0], [*SETTINGS["CRT"], *inspect.signature(create_model).parameters])
        raise TypeError(
            f"create_model() has no argument {unknown[0]!r}.{hint} Settings of a model: {', '.join(SETTINGS['CRT'])}."
        )
    if isinstance(changes.get("class_names"), str):
        raise TypeError(f"class_names is a list of names, got the text {changes['class_names']!r}.")
    settings = check_config({key: value for key, value in changes.items() if key in SETTINGS["CRT"]}, "CRT")
    if "class_names" in settings:
        settings.setdefault("num_classes", len(settings["class_names"]))
    return {**changes, **settings}


def _segmentation_net(source: Source, trained: bool, changes: dict[str, Any]) -> Any:
    """The ``SegmentationNet`` of a folder or repository; it has a name and weights like any other model."""
    if trained:
        return SegmentationNet.from_source(source, **changes)
    logger.warning("%s: built with random weights; pass pretrained=True to load the trained ones.", source.name)
    return SegmentationNet(**check_config({**source.config, **changes}, SegmentationNet.config_table)).eval()


def _is_address(name: str) -> bool:
    """Whether a name says where to look, rather than what for."""
    if name.startswith(("hf-hub:", "local-dir:")):
        return True
    if "/" in name or "\\" in name:
        raise ValueError(
            f"{name!r} is not a model name. Write 'hf-hub:{name}' if it is on the Hub, "
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
