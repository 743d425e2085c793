"""The CNN branch: any timm CNN with a 1x1 convolution as its class map (paper section 3.3).

Departures: the backbone is any timm CNN with feature maps (the paper: ResNet-152), and its batch norm stays frozen in
training mode by a ``train`` that keeps to the contract of ``nn.Module``.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from crt.models.backbones import timm_model
from crt.models.config import check_config
from crt.models.hub import load_features

__all__ = ["CNNBranch"]


class CNNBranch(nn.Module):
    """A CNN whose class activation maps come from one forward pass.

    Args:
        backbone: name of a timm CNN that supports ``features_only``.  One that timm cannot dilate ends at its own
            features of the output stride.
        num_classes: number of classes K, at least 1.
        output_stride: pixels to a cell of the map; 16 gives the grid of a ViT with 16-pixel patches.
        frozen_stride: the layers that lead to the features of this stride are not trained (8 in the paper: "after
            stage 2" of a ResNet); 0 trains all.
        pretrained_backbone: load timm's ImageNet weights (through timm, from its cache or the Hub).

    Raises:
        ValueError: an unknown backbone, one without feature maps, or a ``frozen_stride`` that is none of its strides.
    """

    backbone: Any

    def __init__(
        self,
        backbone: str = "resnet50",
        *,
        num_classes: int = 20,
        output_stride: int = 16,
        frozen_stride: int = 8,
        pretrained_backbone: bool = False,
    ) -> None:
        super().__init__()
        given = {"backbone": backbone, "num_classes": num_classes, "output_stride": output_stride}
        checked = check_config({**given, "frozen_stride": frozen_stride}, "CNNBranch")
        self.num_classes = num_classes = checked["num_classes"]
        how = _how(backbone, output_stride)
        self.backbone = timm_model(backbone, features_only=True, pretrained=pretrained_backbone, **how)
        cfg: Any = timm.get_pretrained_cfg(backbone)
        self.mean, self.std = cfg.mean, cfg.std  # of the weights the backbone has, three values each
        channels = self.backbone.feature_info.channels()[-1]
        self.head = nn.Conv2d(channels, num_classes, kernel_size=1, bias=False)
        if frozen_stride:
            for parameter in self._leading_to(frozen_stride):
                parameter.requires_grad_(False)
        self.train()

    def _leading_to(self, stride: int) -> Iterator[nn.Parameter]:
        """The parameters that the first features of a stride depend on, as autograd sees it: right for any backbone."""
        strides = self.backbone.feature_info.reduction()
        if stride not in strides:
            raise ValueError(f"the backbone has features of stride {strides}, not {stride}; 0 freezes nothing.")
        self.eval()
        try:
            with torch.enable_grad():
                features = self.backbone(torch.zeros(1, 3, 64, 64))[strides.index(stride)]
        except AssertionError as error:
            raise ValueError(f"the backbone takes photos of one size only ({error}); choose another.") from error
        parameters = list(self.backbone.parameters())
        gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
        return (p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None)

    def load_backbone(self, state: Mapping[str, Tensor], name: str) -> None:
        """Loads a timm state dict into the backbone; what comes after its feature maps is left out.

        Raises:
            ValueError: tensors are missing or of another shape; ``name`` is what the message calls them.
        """
        load_features(self.backbone, state, name)

    def train(self, mode: bool = True) -> "CNNBranch":
        """Sets the mode as usual, but leaves batch norm in evaluation mode: its statistics stay the pretrained ones."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward_maps(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalised floats -> (B, K, ceil(H / stride), ceil(W / stride)) raw class maps."""
        return self.head(self.backbone(x)[-1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K) logits, the global average of the class maps."""
        return self.forward_maps(x).mean(dim=(-2, -1))


def _how(backbone: str, stride: int) -> dict[str, Any]:
    """timm's arguments for features that end at a stride: dilated, or cut off there where timm does not dilate."""
    with torch.random.fork_rng(devices=[]):  # a trial leaves the seed as it is
        try:
            reached = timm_model(backbone, features_only=True, output_stride=stride).feature_info.reduction()[-1]
        except ValueError:
            reached = None
        if reached == stride:  # some networks take the argument and ignore it
            return {"output_stride": stride}
        strides = timm_model(backbone, features_only=True).feature_info.reduction()
        if stride not in strides:
            raise ValueError(f"{backbone} has features of stride {strides}, none of {stride}.")
        return {"out_indices": tuple(i for i, s in enumerate(strides) if s <= stride)}
