"""CRT: the vision transformer branch, which makes the class activation maps (paper sections 3.1, 3.2 and 3.4).

``crt.cam.CAMExtractor`` makes maps of photos; ``CRT.tile_maps`` is what it asks for.

Departures from the paper: the backbone is any plain timm ViT with a class token; ``num_passes=0`` names the
transformer without the outer sum; padding and mirroring are aligned exactly by default (``crt.cam.extractor``).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from crt.cam.attention import evaluating
from crt.cam.functional import Activation, pool_maps
from crt.cam.mixin import CAMMixin
from crt.cam.protocol import TileMaps
from crt.cam.tiling import cut, pad_to
from crt.cam.views import Tiling, view_of
from crt.models.backbones import fit_plain_vit, fit_position_embedding, plain_vit, vit_outline
from crt.models.config import SETTINGS, check_classes, check_config
from crt.models.export import ExportMixin
from crt.models.hub import load_weights
from crt.models.hub_mixin import HubMixin
from crt.models.reference import read_reference
from crt.models.tokens import run_passes

__all__ = ["CRT"]


class CRT(nn.Module, CAMMixin, ExportMixin, HubMixin):
    """A plain ViT, run ``num_passes`` times on overlapping tiles; a convolution reads class maps off its patches.

    Args:
        backbone: name of a timm ViT with a class token (the paper: "deit_small_patch16_224").
        num_classes: number of classes K, at least 1.
        class_names: K names, or None.
        num_passes: how often x <- x + blocks(x) is applied, with the same weights (the paper: 3); 0 is the plain
            transformer, x <- blocks(x) once.
        tile: side of a tile in pixels, a multiple of the patch.
        stride: distance between tiles in pixels, a multiple of the patch, at most ``tile``.
        image_size: side in pixels of the square image whose position embedding is stored; other sizes interpolate it.
            None takes ``tile``.
        attention_power: exponent of the class attention by which class maps are multiplied (the paper: 1); 0 leaves
            attention out.
        activation: "relu" cuts the product at zero (the paper); "sigmoid" takes it for a logit: for class maps trained
            on masks; "softmax" does so too, and the classes of a photo compete; "object" makes one map of the object of
            a photo that has one, whatever its class (``select_classes``).
        pool: share of a class map's cells, the highest, whose mean is the class's logit (the paper: 1, all).
        spread: power of the patches' own affinity by which maps are spread over the photo (``crt.cam.spread``); 0
            leaves them as they are (the paper).
        classifier: "maps" pools the class maps to logits (the paper); "tokens" is a linear layer on the class token and
            the mean patch beside them.
        whole: photos are seen at once unless tiles are asked for.
        mean, std: normalization of the three channels, for values in [0, 1]; None takes that of the backbone's weights.
        seed_threshold: background score at which seeds are cut by default, 0 to 1 (the paper: 0.15).
        backbone_args: arguments for timm that change the architecture (embed_dim, depth, num_heads ...).

    All arguments are plain values, so that config.json can rebuild the model.

    Raises:
        ValueError: an argument out of its range, or a backbone that is not a plain ViT.
    """

    backbone: Any
    config_table = "CRT"

    def __init__(
        self,
        backbone: str = "deit_small_patch16_224",
        *,
        num_classes: int = 20,
        class_names: Sequence[str] | None = None,
        num_passes: int = 3,
        tile: int = 224,
        stride: int = 112,
        image_size: int | None = None,
        attention_power: float = 1.0,
        activation: Activation = "relu",
        pool: float = 1.0,
        spread: float = 0.0,
        classifier: Literal["maps", "tokens"] = "maps",
        whole: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed_threshold: float = 0.15,
        backbone_args: Mapping[str, Any] | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in SETTINGS["CRT"]}
        super().__init__()
        checked = check_config(given, "CRT")
        self.num_passes, self.tile, self.stride = checked["num_passes"], checked["tile"], checked["stride"]
        self.attention_power, self.activation = checked["attention_power"], checked["activation"]
        self.pool, self.spread, self.whole = checked["pool"], checked["spread"], checked["whole"]
        self.classifier_kind, self.seed_threshold = checked["classifier"], checked["seed_threshold"]
        self.backbone_name, self.backbone_args = checked["backbone"], checked["backbone_args"] or {}
        self.image_size: int = checked["image_size"] or self.tile
        self.backbone = plain_vit(self.backbone_name, self.image_size, self.backbone_args)
        self.patch: int = self.backbone.patch_embed.patch_size[0]
        self.prefix: int = self.backbone.num_prefix_tokens
        if any(side % self.patch for side in (self.tile, self.stride, self.image_size)) or self.stride > self.tile:
            raise ValueError(
                f"tile, stride and image_size must be multiples of the patch, {self.patch}, and the stride at most the "
                f"tile; got {self.tile}, {self.stride} and {self.image_size}."
            )
        self._mean: list[float] = checked["mean"] or list(self.backbone.default_cfg["mean"])
        self._std: list[float] = checked["std"] or list(self.backbone.default_cfg["std"])
        self.reset_classifier(checked["num_classes"], checked["class_names"])

    def reset_classifier(self, num_classes: int, class_names: Sequence[str] | None = None) -> None:
        """Replaces the head by a new, untrained one."""
        num_classes, class_names = check_classes(num_classes, class_names, self.backbone.embed_dim * 9)
        self.num_classes = num_classes
        self.class_names: Sequence[str] | None = class_names
        like = self.backbone.pos_embed
        width, where = self.backbone.embed_dim, {"device": like.device, "dtype": like.dtype}
        self.head = nn.Conv2d(width, num_classes, kernel_size=3, padding=1, **where)
        self.classifier = nn.Linear(2 * width, num_classes, **where) if self.classifier_kind == "tokens" else None

    @classmethod
    def backbone_size(cls, settings: Mapping[str, Any]) -> int:
        """Parameters of the ViT that the constructor would build, found without building it."""
        side = settings.get("image_size") or settings["tile"]
        return vit_outline(settings["backbone"], side, settings["backbone_args"] or {}).parameters

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as they are now: the contents of config.json."""
        changed: dict[str, Any] = {"backbone": self.backbone_name, "classifier": self.classifier_kind}
        changed |= {"mean": self._mean, "std": self._std}
        settings = {name: changed.get(name, getattr(self, name)) for name in SETTINGS["CRT"]}
        if self.image_size == self.tile:
            del settings["image_size"]
        return settings

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """What timm's tools ask of a model, for example ``timm.data.resolve_model_data_config(model)``."""
        size, mean, std = (3, self.tile, self.tile), tuple(self._mean), tuple(self._std)
        own = {"architecture": self.backbone_name, "num_classes": self.num_classes, "input_size": size}
        same = {"interpolation": "bilinear", "crop_pct": 1.0, "first_conv": "backbone.patch_embed.proj"}
        return {**own, **same, "mean": mean, "std": std, "classifier": "head"}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def mean(self) -> Tensor:
        """(3, 1, 1) float32 on the model's device, whatever its dtype: the mean of pixel values in [0, 1]."""
        return torch.tensor(self._mean, device=self.device).view(3, 1, 1)

    @property
    def std(self) -> Tensor:
        """(3, 1, 1) float32 on the model's device, whatever its dtype: the deviation of pixel values in [0, 1]."""
        return torch.tensor(self._std, device=self.device).view(3, 1, 1)

    def compile(self, *args: Any, **options: Any) -> None:
        """Compiles the blocks in place, for ``forward`` as for ``cam``; arguments as of ``torch.compile``."""
        for block in self.backbone.blocks:
            block.compile(*args, **options)

    def forward_features(self, x: Tensor, rows: list[Tensor] | None = None, *, last: bool = False) -> Tensor:
        """Images or tiles (T, 3, H, W), normalized -> tokens (T, prefix + N, D), the class token first (equation 2).

        H and W are whole patches, as of a tile or any other, for which the position embedding is interpolated; ``rows``
        takes the class token's attention over the patches, (T, N), of each block in each pass, or with ``last`` of the
        last block in the last pass alone.
        """
        if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape or x.shape[-2] % self.patch or x.shape[-1] % self.patch:
            raise ValueError(
                f"expected tiles of shape (T, 3, {self.tile}, {self.tile}), or of other sides that are multiples of "
                f"{self.patch}; got {tuple(x.shape)}."
            )
        return run_passes(self.backbone, x, self.num_passes, rows, last=last)

    def _patches(self, tokens: Tensor, height: int) -> Tensor:
        """Tokens (T, prefix + N, D) of tiles ``height`` pixels high -> (T, D, h, w)."""
        return rearrange(tokens[:, self.prefix :], "t (h w) d -> t d h w", h=height // self.patch)

    def _classify(self, tokens: Tensor) -> Tensor | None:
        """Tokens (T, prefix + N, D) -> (T, K) logits of the classifier beside the maps, if there is one."""
        if self.classifier is None:
            return None
        return self.classifier(torch.cat([tokens[:, 0], tokens[:, self.prefix :].mean(dim=1)], dim=1))

    def forward_maps(self, x: Tensor, *, whole: bool | None = None) -> Tensor:
        """Raw class maps of whole images, the same in training and evaluation.

        Args:
            x: (B, 3, H, W) normalized floats of any size; padded with zeros to whole patches and at least a tile.
            whole: see each image at once, as one tile of its own size, padded to whole patches; beyond
                ``crt.cam.views.MAX_TOKENS`` patches as large tiles.  None takes the model's own setting.

        Returns:
            (B, K, ceil(H / patch), ceil(W / patch)), any sign.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"expected normalized images of shape (B, 3, H, W), got {tuple(x.shape)}.")
        size = (-(-x.shape[-2] // self.patch) * self.patch, -(-x.shape[-1] // self.patch) * self.patch)
        tile: int | Literal["whole"] = "whole" if (self.whole if whole is None else whole) else self.tile
        view = view_of(size, Tiling(self.patch, tile, self.stride), mirrored=False)
        tiles = cut(pad_to(x.to(self.head.weight.dtype), *view.padded), view.tile, view.stride)
        return view.merge_batch(self.head(self._patches(self.forward_features(tiles), view.tile[0])))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalized floats -> (B, K) logits, the same in both modes: of the class maps, pooled, or of the
        classifier beside them, which sees the image at once."""
        if self.classifier is None:
            return pool_maps(self.forward_maps(x), self.pool)
        height, width = (-(-side // self.patch) * self.patch for side in x.shape[-2:])
        tokens = self.forward_features(pad_to(x.to(self.head.weight.dtype), height, width))
        return cast(Tensor, self._classify(tokens))

    def tile_maps(self, tiles: Tensor) -> TileMaps:
        """What a CAM is the product of: class maps, and the class token's attention.

        Args:
            tiles: (T, 3, H, W) normalized floats: tiles, or images of any whole number of patches.

        Returns:
            Maps (T, K, h, w) and attention (T, 1, h, w), h = H / patch, and what the settings ask for besides
            (``TileMaps``).  The attention is summed over all passes and blocks, to the power of ``attention_power``.
            Where a tile has n times as many patches as the model's own, each gets an n-th of the attention: it is
            brought to the same level first.  No gradients; the model's mode stays as found.
        """
        with torch.no_grad(), evaluating(self):
            return self.compute_maps(tiles)

    def compute_maps(self, tiles: Tensor) -> TileMaps:
        """``tile_maps`` as it is in the current mode, with gradients: what is exported."""
        rows: list[Tensor] = []
        tokens = self.forward_features(tiles.to(self.head.weight), rows if self.attention_power else None)
        patches, logits = self._patches(tokens, tiles.shape[-2]), self._classify(tokens)
        maps = self.head(patches)
        features = patches if self.spread else None
        if not rows:
            return TileMaps(maps, torch.ones_like(maps[:, :1], dtype=torch.float32), logits, features)
        level = rows[0].shape[1] / (self.tile // self.patch) ** 2
        attention = (torch.stack(rows).sum(dim=0) * level) ** self.attention_power
        return TileMaps(maps, rearrange(attention, "t (h w) -> t 1 h w", h=maps.shape[-2]), logits, features)

    def load_backbone(self, state: dict[str, Tensor], name: str) -> None:
        """Loads a plain ViT's state dict in timm's layout into the backbone, resampled and folded where it must be.

        Raises:
            ValueError: tensors are missing, left over or of another shape; ``name`` is what the message calls them.
        """
        load_weights(self.backbone, fit_plain_vit(state, self.backbone, self.image_size // self.patch), name)

    def fit_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resamples the position embedding of a checkpoint that was made for another image size."""
        key = "backbone.pos_embed"
        if key not in state:
            return state
        return {
            **state,
            key: fit_position_embedding(state[key], self.backbone.pos_embed, self.image_size // self.patch),
        }

    @classmethod
    def from_reference(
        cls, state_dict: Mapping[str, Tensor], *, num_heads: int | None = None, num_passes: int = 3
    ) -> "CRT":
        """A model with the weights of the public reference's ViT branch, its architecture read off the shapes.

        Args:
            state_dict: patch_embed.proj, cls_token, pos_embed, blocks.N.*, norm, head, in the reference's names.
            num_heads: attention heads; None takes D / 64.
            num_passes: 3 for CRT; the weights do not tell.

        Raises:
            ValueError: missing or unknown tensors.
        """
        arguments, state = read_reference(state_dict, num_heads)
        model = cls(num_passes=num_passes, **arguments)
        load_weights(model, state, "the reference")
        return model
