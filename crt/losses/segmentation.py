"""The loss of the segmentation stage: cross entropy on pseudo masks, whose noisy pixels lose their gradient (WeakTr).

Zhu et al., "WeakTr: Exploring Plain Vision Transformer for Weakly-supervised Semantic Segmentation", 2023, section 3.3.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["segmentation_loss"]


def segmentation_loss(
    logits: Tensor, masks: Tensor, *, clamp_from: float | None = None, window: int = 120, ignore_index: int = 255
) -> Tensor:
    """Mean cross entropy of the sure pixels; with a clamp, of those that are not likely to be noise.

    Once the mean is at most ``clamp_from``, pixels whose loss is above both the mean of the batch and the mean of their
    window are left out.  Before that the network has learned too little to tell noise from what it does not know yet.

    Args:
        logits: (B, C, h, w), the background first; resized to the masks (bilinear).
        masks: (B, H, W) integers from 0 to C - 1, or ``ignore_index``.
        clamp_from: mean loss at which the clamp sets in (WeakTr: 1.2); None never clamps.
        window: side of the windows in pixels, which do not overlap (WeakTr: 120).
        ignore_index: value of the pixels that do not count.

    Returns:
        A scalar; 0 (with a gradient of 0) where no pixel counts.

    >>> logits = torch.tensor([[[[0.0, 0.0]], [[0.0, 9.0]]]])
    >>> segmentation_loss(logits, torch.tensor([[[0, 255]]]))
    tensor(0.6931)
    """
    masks = masks.long()
    if logits.shape[-2:] != masks.shape[-2:]:
        logits = F.interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)
    losses = F.cross_entropy(logits.float(), masks, ignore_index=ignore_index, reduction="none")
    sure = (masks != ignore_index).float()
    mean = losses.sum() / sure.sum().clamp_min(1)
    if clamp_from is None or mean > clamp_from:
        return mean
    with torch.no_grad():
        kept = sure * (losses <= torch.maximum(mean, _window_means(losses, sure, window)))
    return (losses * kept).sum() / kept.sum().clamp_min(1)


def _window_means(losses: Tensor, sure: Tensor, window: int) -> Tensor:
    """(B, H, W), for each pixel the mean loss of the sure pixels in its window."""
    height, width = losses.shape[-2:]
    sums = F.avg_pool2d(torch.stack([losses, sure], dim=1), window, ceil_mode=True, divisor_override=1)
    means = sums[:, :1] / sums[:, 1:].clamp_min(1)
    return means.repeat_interleave(window, dim=-2).repeat_interleave(window, dim=-1)[:, 0, :height, :width]
