"""SegmentationNet: a network of segmentation_models.pytorch over any timm encoder, saved and loaded as all of ours.

It needs the extra ``segment``.  Nothing is downloaded when it is built: the encoder's weights come from a file, from
timm on request, or from the trained network itself.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crt._messages import did_you_mean, printable
from crt.cam.views import check_scales
from crt.images import ImagesLike, normalize, resize, shrink_factor, to_tensors
from crt.models.backbones import WithoutMemory
from crt.models.config import check_config
from crt.models.export import ExportMixin
from crt.models.hub import load_features
from crt.models.hub_mixin import HubMixin

__all__ = ["ARCHITECTURES", "LIBRARY", "SegmentationNet"]

LIBRARY = "segmentation_models_pytorch"
ARCHITECTURES = (
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "deeplabv3",
    "deeplabv3plus",
    "pan",
    "upernet",
    "segformer",
)
STRIDE = 32  # images are padded to multiples of it
OUTSIDE = 255  # in masks of several images, pixels beyond the smaller ones


class SegmentationNet(nn.Module, ExportMixin, HubMixin):
    """Images to masks: K classes and the background.

    Args:
        arch: one of ``ARCHITECTURES``; the paper's kind is "deeplabv3plus".
        encoder: "tu-NAME" for any timm network that supports ``features_only``, for example
            "tu-tf_efficientnet_lite2"; or an encoder of segmentation_models.pytorch itself ("resnet34").
        num_classes: number of classes K, without the background.
        class_names: K names, or None.
        mean, std: normalization, three values each; None takes that of timm's weights of the encoder, else ImageNet's.
        library: what ``arch`` belongs to; tells this network's config.json from others.

    Raises:
        ValueError: an argument out of its range, an unknown encoder, or segmentation_models.pytorch is not installed.
    """

    config_table: ClassVar[str] = "SegmentationNet"
    graphs = ("segment",)

    def __init__(
        self,
        arch: str = "deeplabv3plus",
        encoder: str = "tu-tf_efficientnet_lite2",
        *,
        num_classes: int = 20,
        class_names: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        library: str = LIBRARY,
    ) -> None:
        super().__init__()
        _check_names(arch, encoder, library)
        given = {"num_classes": num_classes, "class_names": class_names, "mean": mean, "std": std}
        self.num_classes, self.class_names, mean, std = check_config(given, self.config_table).values()
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names must be {self.num_classes} names, got {len(self.class_names)}.")
        self.arch, self.encoder_name = arch, encoder
        name = encoder.removeprefix("tu-")
        cfg: Any = timm.get_pretrained_cfg(name) if encoder.startswith("tu-") and timm.is_model(name) else None
        default = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if cfg is None else (cfg.mean, cfg.std)
        self._mean, self._std = list(mean or default[0]), list(std or default[1])
        self.network = _build(arch, encoder, self.num_classes + 1)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments: the contents of config.json."""
        return {
            "library": LIBRARY,
            "arch": self.arch,
            "encoder": self.encoder_name,
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "mean": self._mean,
            "std": self._std,
        }

    @classmethod
    def backbone_size(cls, settings: Mapping[str, Any]) -> int:
        """Parameters of the network that the constructor would build, found without memory for them."""
        _check_names(settings["arch"], settings["encoder"], settings["library"])
        with WithoutMemory(), torch.random.fork_rng(devices=[]):
            network = _build(settings["arch"], settings["encoder"], 2)
        return sum(parameter.numel() for parameter in network.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def reset_classifier(self, num_classes: int, class_names: Sequence[str] | None = None) -> None:
        """Replaces the last convolution by a new, untrained one."""
        settings = {**self.config, "num_classes": num_classes, "class_names": class_names}
        fresh = SegmentationNet(**settings).to(self.device)
        self.network.segmentation_head = fresh.network.segmentation_head
        self.num_classes, self.class_names = fresh.num_classes, fresh.class_names

    def load_encoder(self, state: Mapping[str, Tensor], name: str) -> None:
        """Loads a timm state dict into a "tu-" encoder; what comes after the features is left out.

        Raises:
            ValueError: tensors are missing or of another shape, or the encoder is not timm's.
        """
        if not self.encoder_name.startswith("tu-"):
            raise ValueError(f"weights in timm's layout need a timm encoder, 'tu-NAME'; got {self.encoder_name!r}.")
        encoder: Any = self.network.encoder
        load_features(encoder.model, state, name)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalized floats -> (B, K + 1, H, W) logits, the background first."""
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE))  # zero is the mean color
        return self.network(padded)[..., :height, :width]

    @torch.no_grad()
    def segment(
        self,
        img: ImagesLike,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = True,
        max_side: int | None = 640,
    ) -> Tensor:
        """Masks at the size of the images, without labels.

        Args:
            img: one image or several, in any form of ``crt.images.ImagesLike``: uint8, or normalized floats.
            scales: factors at which an image is seen; the probabilities are summed.
            flip: add those of the mirrored image.
            max_side: an image with a longer side (pixels) is seen as if reduced to it; None sees it as it is.

        Returns:
            (B, H, W) uint8; 0 is background, i + 1 is class i.  Images of different sizes lie in the top left corner of
            the common H and W, with 255 around them.  On the device of the model; its mode stays as it is.

        Raises:
            TypeError, ValueError, OSError: images that cannot be understood or read.
        """
        check_scales(scales)
        images = to_tensors(img, device=self.device)
        training = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            masks = [self._mask(image.to(self.device), scales, flip, max_side) for image in images]
        finally:
            for module, mode in training:
                module.training = mode
        height, width = (max(mask.shape[axis] for mask in masks) for axis in (0, 1))
        common = torch.full((len(masks), height, width), OUTSIDE, dtype=torch.uint8, device=self.device)
        for target, mask in zip(common, masks, strict=True):
            target[: mask.shape[0], : mask.shape[1]] = mask
        return common

    def _mask(self, image: Tensor, scales: Sequence[float], flip: bool, max_side: int | None) -> Tensor:
        """(3, H, W) -> (H, W)."""
        x = normalize(image, self._mean, self._std) if image.dtype == torch.uint8 else image
        height, width = x.shape[-2:]
        reduced = shrink_factor(height, width, max_side)
        size = (max(1, round(height * reduced)), max(1, round(width * reduced)))
        total = x.new_zeros(self.num_classes + 1, *size)
        for scale in scales:
            seen = resize(x, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))), antialias=True)[None]
            views = torch.cat([seen, seen.flip(-1)]) if flip else seen
            found = self(views).float().softmax(dim=1)
            total += resize((found[0] + found[1].flip(-1)) if flip else found[0], size)
        return _argmax(total, (height, width))


def _argmax(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of the highest score after resizing, (H, W) uint8, one class at a time: memory for two planes."""
    best, mask = resize(scores[:1], size)[0], torch.zeros(size, dtype=torch.uint8, device=scores.device)
    for index in range(1, len(scores)):
        plane = resize(scores[index : index + 1], size)[0]
        higher = plane > best
        mask[higher] = index
        best = torch.where(higher, plane, best)
    return mask


def _check_names(arch: Any, encoder: Any, library: Any) -> None:
    """ValueError unless the names are of this library and look like names."""
    if library != LIBRARY:
        raise ValueError(f"library must be {LIBRARY!r}, got {printable(library, 60)}.")
    if arch not in ARCHITECTURES:
        hint = did_you_mean(str(arch)[:60], ARCHITECTURES) or f" There are {', '.join(ARCHITECTURES)}."
        raise ValueError(f"unknown architecture {printable(arch, 60)}.{hint}")
    if not isinstance(encoder, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", encoder):
        raise ValueError(f"encoder must be a name such as 'tu-resnet50', got {printable(encoder, 60)}.")


def _build(arch: str, encoder: str, outputs: int) -> nn.Module:
    """The network with random weights.

    Raises:
        ValueError: an unknown encoder, one that does not fit the architecture, or the library is not installed.
    """
    try:
        import segmentation_models_pytorch as smp
    except ModuleNotFoundError as error:
        raise ValueError(f"segmentation networks need {error.name}: pip install 'crt-wsss[segment]'.") from error
    name = encoder.removeprefix("tu-")
    if encoder.startswith("tu-") and not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}.{did_you_mean(name, timm.list_models(), n=3)}")
    try:
        return smp.create_model(arch, encoder_name=encoder, encoder_weights=None, in_channels=3, classes=outputs)
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError, AttributeError, IndexError) as error:
        raise ValueError(f"{arch} cannot be built over {encoder}: {printable(error, 200)}") from error
