"""Training on pseudo masks: the ViT's class map as its own segmentation of the photo.

Where a pseudo mask is sure, the class map must agree with it; where it is not (255), only the classes that are in the
photo are possible.  Class maps serve as logits against a background of 0, so that what is left of them after ReLU, as
in every CAM, is what is likelier than background.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["mask_loss", "sample_masks"]

STRIDE = 4  # pixels between the places where map and mask are compared


def sample_masks(masks: Tensor, stride: int = STRIDE) -> Tensor:
    """(B, H, W) -> (B, ceil(H / stride), ceil(W / stride)) for H, W in whole strides: the pixel amid each cell."""
    return masks[:, stride // 2 :: stride, stride // 2 :: stride]


def mask_loss(maps: Tensor, masks: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood of the masks.

    Args:
        maps: (B, K, h, w) raw class maps.
        masks: (B, H, W) uint8; 0 background, class i as i + 1, 255 unknown.
        targets: (B, K) multi-hot, the classes in the photo.

    Returns:
        A scalar.
    """
    masks = sample_masks(masks).long()
    maps = F.interpolate(maps.float(), masks.shape[-2:], mode="bilinear", align_corners=False)
    scores = F.log_softmax(torch.cat([torch.zeros_like(maps[:, :1]), maps], dim=1), dim=1)
    sure = F.nll_loss(scores, masks, ignore_index=255, reduction="none")
    possible = torch.cat([torch.ones_like(targets[:, :1]), targets], dim=1)[:, :, None, None] > 0
    unsure = -scores.masked_fill(~possible, -torch.inf).logsumexp(dim=1)
    return torch.where(masks == 255, unsure, sure).mean()
