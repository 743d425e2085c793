"""BoundaryNet: where one class ends and the next begins, and which way the middle of each object lies (IRN).

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019, section 4 and
appendix.  Its losses are in ``crt.refine``, its training is ``crt train refine``; ``crt.refine.RandomWalk`` walks
between its boundaries.

Departures: the backbone is any timm feature extractor (the paper: ResNet-50); each head has one width for all stages;
the photo is padded by its border pixels to whole cells of the last stage, so that all stages lie on each other exactly,
also on those of the mirrored photo; displacements are not centered by their mean over the training photos, since only
boundaries are read afterwards.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crt.images import to_unit
from crt.models.backbones import outline_of, timm_model
from crt.models.config import check_config
from crt.models.hub import load_features
from crt.models.hub_mixin import HubMixin

__all__ = ["BoundaryMaps", "BoundaryNet"]

STRIDE = 4  # pixels to a cell of the maps


class BoundaryMaps(NamedTuple):
    """What the two heads see.

    Attributes:
        boundary: (B, 1, h, w) in [0, 1].
        displacement: (B, 2, h, w), the way (y, x) in cells to the middle of the object.
    """

    boundary: Tensor
    displacement: Tensor


class BoundaryNet(nn.Module, HubMixin):
    """A boundary head and a displacement head on a frozen backbone, both with 4-pixel cells.

    Args:
        backbone: name of a timm model that supports ``features_only``, with features of stride 4 and above it.
        output_stride: pixels to a cell of the backbone's last features, where dilation takes over (the paper: 16).
        boundary_width: channels that the boundary head takes from each stage, a multiple of 8 (the paper: 32).
        displacement_width: the same for the other head (the paper: 64 to 256).
        mean, std: normalisation, three values each; None takes that of the backbone's weights.

    Raises:
        ValueError: an argument out of its range, or a backbone without such features.
    """

    backbone: Any
    config_table = "BoundaryNet"

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        *,
        output_stride: int = 16,
        boundary_width: int = 32,
        displacement_width: int = 64,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        given = {"backbone": backbone, "output_stride": output_stride, "mean": mean, "std": std}
        given |= {"boundary_width": boundary_width, "displacement_width": displacement_width}
        checked = check_config(given, "BoundaryNet")
        boundary_width, displacement_width = checked["boundary_width"], checked["displacement_width"]
        self.backbone_name, self.output_stride = checked["backbone"], checked["output_stride"]
        body = timm_model(self.backbone_name, features_only=True, output_stride=self.output_stride)
        self.backbone = body.requires_grad_(False)
        cfg: Any = timm.get_pretrained_cfg(self.backbone_name)
        self._mean: list[float] = checked["mean"] or list(cfg.mean)
        self._std: list[float] = checked["std"] or list(cfg.std)
        self.strides: list[int] = self.backbone.feature_info.reduction()
        if STRIDE not in self.strides or max(self.strides) == STRIDE:
            raise ValueError(f"features of stride 4 and above are needed, those of {backbone!r} are {self.strides}.")
        channels = self.backbone.feature_info.channels()
        self.boundary_width, self.displacement_width = boundary_width, displacement_width
        self.boundary_head = _BoundaryHead(channels, boundary_width)
        deep = sum(stride > STRIDE for stride in self.strides)
        self.displacement_head = _DisplacementHead(channels, deep, displacement_width)
        self.train()

    @classmethod
    def backbone_size(cls, settings: Mapping[str, Any]) -> int:
        """Parameters of the backbone that the constructor would build, found without building it."""
        arguments = (("features_only", True), ("output_stride", settings["output_stride"]))
        return outline_of(settings["backbone"], arguments).parameters

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments: the contents of config.json."""
        return {
            "backbone": self.backbone_name,
            "output_stride": self.output_stride,
            "boundary_width": self.boundary_width,
            "displacement_width": self.displacement_width,
            "mean": self._mean,
            "std": self._std,
        }

    def train(self, mode: bool = True) -> "BoundaryNet":
        """Sets the mode as usual, but leaves the backbone in evaluation mode: it is frozen."""
        super().train(mode)
        self.backbone.eval()
        return self

    @classmethod
    def clean_state(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without the mean displacement, which files of earlier versions hold and inference never read."""
        return {name: value for name, value in state.items() if name != "mean_shift"}

    def load_backbone(self, state: Mapping[str, Tensor], name: str) -> None:
        """Loads a timm state dict into the backbone, as ``CNNBranch.load_backbone`` does."""
        load_features(self.backbone, state, name)

    def forward(self, image: Tensor) -> Tensor:
        """Boundaries, the mean of those of the photo and of its mirror image.

        Args:
            image: (B, 3, H, W), uint8 in [0, 255] or floating point in [0, 1].

        Returns:
            (B, 1, ceil(H / 4), ceil(W / 4)) in [0, 1].

        Raises:
            ValueError: another shape, or floats out of their range.
        """
        mean, std = (image.new_tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (self._mean, self._std))
        h, w = self._cells(image)
        x = self._padded((to_unit(image) - mean) / std)
        boundary = self.boundary_head(*self._features(torch.cat([x, x.flip(-1)]))).sigmoid()
        plain, mirrored = boundary.chunk(2)
        return ((plain + mirrored.flip(-1)) / 2)[..., :h, :w]

    def forward_maps(self, x: Tensor) -> BoundaryMaps:
        """(B, 3, H, W) normalised floats -> both maps, (ceil(H / 4), ceil(W / 4)) cells, without a mirror image."""
        h, w = self._cells(x)
        seen = self._features(self._padded(x))
        boundary = self.boundary_head(*seen).sigmoid()
        displacement = self.displacement_head(*seen)
        return BoundaryMaps(boundary[..., :h, :w], displacement[..., :h, :w])

    @staticmethod
    def _cells(image: Tensor) -> tuple[int, int]:
        """The cells that show the image; the maps have more before they are cropped."""
        if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
            raise ValueError(f"expected images of shape (B, 3, H, W), got {tuple(image.shape)}.")
        return -(-image.shape[-2] // STRIDE), -(-image.shape[-1] // STRIDE)

    def _padded(self, x: Tensor) -> Tensor:
        """Normalised images, padded to whole cells of all stages."""
        whole = math.lcm(*self.strides)
        x = F.pad(x, (0, -x.shape[-1] % whole, 0, -x.shape[-2] % whole), mode="replicate")
        return x.to(self.boundary_head.last.weight.dtype)

    def _features(self, x: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """The backbone's features, without gradient, and the size of the grid that the heads bring them to."""
        with torch.no_grad():
            return self.backbone(x), (x.shape[-2] // STRIDE, x.shape[-1] // STRIDE)


class _BoundaryHead(nn.Module):
    """All stages, projected, brought to one grid and joined into one channel."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.sides = nn.ModuleList(_projection(count, width) for count in channels)
        self.last = nn.Conv2d(width * len(channels), 1, kernel_size=1)

    def forward(self, features: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Features of all stages -> (B, 1, *grid) logits."""
        sides = [_resized(side(x), grid) for side, x in zip(self.sides, features, strict=True)]
        return self.last(torch.cat(sides, dim=1))


class _DisplacementHead(nn.Module):
    """Top-down: the deep stages are joined at twice the cell, then the shallow ones with them at the cell itself."""

    def __init__(self, channels: Sequence[int], deep: int, width: int) -> None:
        super().__init__()
        self.deep = deep
        self.sides = nn.ModuleList(_projection(count, width) for count in channels)
        self.join_deep = _projection(width * deep, width)
        self.join_all = _projection(width * (len(channels) - deep + 1), width)
        self.last = nn.Conv2d(width, 2, kernel_size=1, bias=False)

    def forward(self, features: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Features of all stages -> (B, 2, *grid)."""
        sides = [side(x) for side, x in zip(self.sides, features, strict=True)]
        shallow, deep = sides[: -self.deep], sides[-self.deep :]
        coarse = (grid[0] // 2, grid[1] // 2)
        top = self.join_deep(torch.cat([_resized(x, coarse) for x in deep], dim=1))
        return self.last(self.join_all(torch.cat([_resized(x, grid) for x in [*shallow, top]], dim=1)))


def _projection(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=1, bias=False), nn.GroupNorm(width // 8, width), nn.ReLU()
    )


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, pixel centres at half integers; halving takes the mean of 2 x 2 cells."""
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)
