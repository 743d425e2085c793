"""Models as ONNX graphs, for runtimes without PyTorch: from a normalized photo to maps (extra ``export``).

A graph sees the photo whole, once, without its mirror image: as ``tile="whole", scales=(1,), flip=False``.  The class
attention, the activation, the spread of the maps, and the threshold of ``segment`` are part of it.
"""

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crt._files import whole_file
from crt.cam.attention import evaluating
from crt.cam.functional import activate, normalize_cam, pool_maps

__all__ = ["GRAPHS", "ExportMixin", "MapsGraph", "SegmentGraph"]

GRAPHS = ("segment", "cam")
LOWEST_TORCH = (2, 8)  # of the extra ``export`` in pyproject.toml
MAX_SIDE = 1024  # of photos that a graph of any size takes, in pixels


class MapsGraph(nn.Module):
    """The graph "cam": (B, 3, H, W) normalized -> (B, K, H / patch, W / patch), not negative, of all classes.

    ``normalize_cam`` makes them the maps of ``CRT.cam``; for activation "softmax" they are probabilities already.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x)[0]

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The maps, and logits (B, K)."""
        found = self.model.compute_maps(x)
        logits = pool_maps(found.maps, self.model.pool) if found.logits is None else found.logits
        maps = found.maps
        if self.model.activation == "object":
            maps = maps.float().logsumexp(dim=1, keepdim=True).expand_as(maps)
        cam = activate(maps.float() * found.attention.float(), self.model.activation)
        return (cam if found.features is None else _spread(cam, found.features, self.model.spread)), logits


class SegmentGraph(MapsGraph):
    """The graph "segment": (B, 3, H, W) normalized -> (B, K + 1, H, W) scores, whose argmax is the mask.

    It is the mask of ``CRT.segment``; the background's score comes first.  Where classes compete (activation "softmax")
    all are probabilities, the background's times t / (1 - t), for its threshold t; else classes that are not predicted
    have scores of zero.
    """

    def forward(self, x: Tensor) -> Tensor:
        cam, logits = self.maps(x)
        cam = F.interpolate(cam, x.shape[-2:], mode="bilinear", align_corners=False)
        threshold = self.model.seed_threshold
        if self.model.activation == "softmax":
            background = (1 - cam.sum(dim=1, keepdim=True)).clamp(min=0) * (threshold / max(1 - threshold, 1e-6))
            return torch.cat([background, cam], dim=1)
        likeliest = F.one_hot(logits.argmax(dim=1), self.model.num_classes).bool()
        predicted = (logits > 0) | (likeliest & (logits <= 0).all(dim=1, keepdim=True))
        cam = normalize_cam(cam) * predicted[..., None, None]
        return torch.cat([torch.full_like(cam[:, :1], threshold), cam], dim=1)


class _NetworkGraph(nn.Module):
    """The graph "segment" of a segmentation network: its logits, the background first."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _spread(maps: Tensor, features: Tensor, power: float) -> Tensor:
    """``crt.cam.spread.spread`` of (B, K, h, w) by (B, D, h, w), with the affinity as a whole."""
    directions = F.normalize(features.float().flatten(2), dim=1)
    affinity = (directions.transpose(1, 2) @ directions).clamp(min=0).pow(power)
    values = (affinity @ maps.flatten(2).transpose(1, 2)) / affinity.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    return values.transpose(1, 2).reshape(maps.shape)


class ExportMixin:
    """``export`` for models; ``graphs`` are those that a model has."""

    graphs: ClassVar[tuple[str, ...]] = GRAPHS

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        graph: Literal["segment", "cam"] = "segment",
        size: tuple[int, int] | Literal["any"] | None = None,
        opset: int = 18,
    ) -> None:
        """Writes an ONNX file with one input ``image``, (B, 3, H, W) float32 normalized, and one output ``maps``.

        Args:
            path: the file; it appears whole or not at all.
            graph: "segment": (B, K + 1, H, W) scores, the background first, whose argmax is the mask.  "cam": (B, K,
                H / patch, W / patch) maps of all classes, not negative.
            size: (H, W) in pixels, whole patches; None is the model's tile; "any" leaves H and W open.  B is open.
            opset: version of ONNX's operators.

        The file's metadata holds JSON under class_names, mean, std, threshold, patch, activation and graph.

        Raises:
            ValueError: a graph that this model does not have, a size that is not whole patches or cannot be left open,
                or the extra ``export`` is not installed.
            OSError: the file cannot be written.
        """
        _require_tools()
        module, dims = self._graph(graph), {0: _dim("batch", 1, 1024)}
        height, width, patch = *self._size(size), self._patch()
        if size == "any":
            dims |= {2: patch * _dim("rows", 2, MAX_SIDE // patch), 3: patch * _dim("columns", 2, MAX_SIDE // patch)}
        model: Any = self
        example = torch.zeros(2, 3, height, width, device=model.device)
        with torch.no_grad(), evaluating(module):
            program = _program(module, example, dims)
        known = {"class_names": model.class_names, "mean": model.config["mean"], "std": model.config["std"]}
        known |= {"threshold": getattr(model, "seed_threshold", None), "patch": patch, "graph": graph}
        known |= {"activation": getattr(model, "activation", "softmax")}
        _write(program, Path(path).expanduser(), {key: json.dumps(value) for key, value in known.items()}, opset)

    def _graph(self, name: str) -> nn.Module:
        if name not in self.graphs:
            raise ValueError(f"{type(self).__name__} has the graphs {', '.join(self.graphs)}; got {name!r}.")
        if "cam" not in self.graphs:
            return _NetworkGraph(self)  # type: ignore[arg-type]
        return MapsGraph(self) if name == "cam" else SegmentGraph(self)

    def _patch(self) -> int:
        return getattr(self, "patch", 32)

    def _size(self, size: Any) -> tuple[int, int]:
        """The size of the example, in pixels."""
        patch = self._patch()
        if size == "any":
            if "cam" not in self.graphs:
                raise ValueError("a segmentation network is exported at a fixed size: give size=(H, W).")
            return 5 * patch, 7 * patch
        side = getattr(self, "tile", 512)
        height, width = size or (side, side)
        if any(length < 2 * patch or length % patch for length in (height, width)):
            raise ValueError(f"size must be two sides of whole patches of {patch} pixels, at least two; got {size}.")
        return height, width


def _require_tools() -> None:
    """ValueError unless what the extra ``export`` installs is there."""
    if tuple(int(number) for number in torch.__version__.split(".")[:2]) < LOWEST_TORCH:
        raise ValueError(f"export needs torch 2.8, this is {torch.__version__}: pip install 'crt-wsss[export]'.")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ModuleNotFoundError as error:
        raise ValueError(f"export needs {error.name}: pip install 'crt-wsss[export]'.") from error


def _dim(name: str, low: int, high: int) -> Any:
    return torch.export.Dim(name, min=low, max=high)


def _program(module: nn.Module, example: Tensor, dims: dict[int, Any]) -> Any:
    """The exported program; ValueError if a size cannot be left open."""
    try:
        return torch.export.export(module, (example,), dynamic_shapes=(dims,), strict=False)
    except Exception as error:  # torch.export raises errors of many kinds
        if 2 not in dims:
            raise
        raise ValueError(f"torch.export cannot leave the size open; give size=(H, W). {str(error)[:200]}") from error


def _write(program: Any, path: Path, metadata: dict[str, str], opset: int) -> None:
    """Runs torch.onnx, and writes one file with the weights and the metadata inside."""
    import onnx

    level = logging.getLogger("torch.onnx")
    before = level.level
    try:
        level.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program, dynamo=True, opset_version=opset, input_names=["image"], output_names=["maps"], verbose=False
            )
    finally:
        level.setLevel(before)
    proto: Any = made.model_proto  # type: ignore[union-attr]
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    with whole_file(path) as temporary:
        onnx.save(proto, str(temporary))
