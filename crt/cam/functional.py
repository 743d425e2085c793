"""The arithmetic of class activation maps: pure functions on tensors (b k h w)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from crt.images import resize

__all__ = [
    "activate",
    "against_background",
    "check_finite",
    "largest_box",
    "largest_component",
    "mask_from_cam",
    "merge_scales",
    "min_max",
    "normalize_cam",
    "pool_maps",
    "select_classes",
    "snapped_size",
    "with_background",
]

Align = Literal["exact", "reference"]
Activation = Literal["relu", "sigmoid", "softmax", "object"]


def activate(maps: Tensor, activation: Activation) -> Tensor:
    """Maps signed scores to non-negative activations.

    "relu": max(x, 0). "sigmoid": the probability of each class against the background, whose score is 0. "softmax": the
    probability among all k classes and the background. "object": how much likelier than background, the difference of
    both probabilities, cut at zero.

    Args:
        maps: (..., k, h, w), any sign.
    """
    if activation == "sigmoid":
        return maps.sigmoid()
    if activation == "softmax":
        return torch.cat([torch.zeros_like(maps[..., :1, :, :]), maps], dim=-3).softmax(dim=-3)[..., 1:, :, :]
    return maps.relu() if activation == "relu" else (maps / 2).tanh().relu()


def against_background(probabilities: Tensor) -> Tensor:
    """Maps of classes that compete with each other -> each class against the background alone: p / (p + p_background).

    The order of the classes at a pixel stays, and a class is likelier than the background where its value exceeds 0.5.

    Args:
        probabilities: (k, H, W), whose sum over k is at most 1; the rest is the background's.

    Returns:
        (k, H, W) in [0, 1].

    >>> against_background(torch.tensor([0.3, 0.2]).view(2, 1, 1)).flatten()
    tensor([0.3750, 0.2857])
    """
    background = (1 - probabilities.sum(dim=0, keepdim=True)).clamp(min=0)
    return probabilities / (probabilities + background).clamp(min=1e-8)


def with_background(cam: Tensor) -> Tensor:
    """The inverse of ``against_background``: (k, H, W) -> (1 + k, H, W) probabilities, the background's first.

    >>> with_background(torch.tensor([0.375, 2 / 7]).view(2, 1, 1)).flatten()
    tensor([0.5000, 0.3000, 0.2000])
    """
    share = cam.clamp(0, 1 - 1e-6)
    odds = torch.cat([torch.ones_like(cam.sum(dim=0, keepdim=True)), share / (1 - share)])
    return odds / odds.sum(dim=0)


def select_classes(maps: Tensor, kept: Tensor, activation: Activation) -> Tensor:
    """(T, K, h, w) raw class maps -> (T, k, h, w), those of the classes ``kept``.

    For "object" each of them is the log-sum-exp over all K classes, the logit of any class against background: where a
    photo has one object, that is the object, whatever it is called.
    """
    if activation == "object":
        return maps.float().logsumexp(dim=1, keepdim=True).expand(-1, len(kept), -1, -1)
    return maps.index_select(1, kept)


def normalize_cam(cam: Tensor) -> Tensor:
    """Divides each map by (its maximum + 1e-5), as the paper's inference does.

    Args:
        cam: (..., H, W), not negative.

    Returns:
        The same shape, in [0, 1); a map that is zero everywhere stays zero.

    >>> normalize_cam(torch.tensor([[[0.0, 2.0], [1.0, 4.0]]])).round(decimals=2)
    tensor([[[0.0000, 0.5000],
             [0.2500, 1.0000]]])
    """
    return cam / (cam.amax(dim=(-2, -1), keepdim=True) + 1e-5)


def check_finite(maps: Tensor) -> Tensor:
    """The maps, if all of their values are finite.

    Raises:
        ValueError: NaN or infinite values: of weights or constants that are not finite, or of half precision.
    """
    if maps.numel() and not torch.isfinite(torch.stack(maps.aminmax())).all():
        raise ValueError("the maps have NaN or infinite values: check the model's weights, mean and std.")
    return maps


def largest_box(cam: Tensor, threshold: float) -> tuple[int, int, int, int] | None:
    """The box around the largest component of the pixels that reach a threshold.

    Args:
        cam: (H, W) of any scale, brought to [0, 1] by ``min_max``.
        threshold: 0 to 1, a share of the map's range.

    Returns:
        XYXY in pixels; x1 and y1 are the first column and row behind the box.  None where no pixel reaches it.

    >>> largest_box(torch.tensor([[0.5, 0.7, 0.9], [0.5, 0.5, 0.5]]), 0.4)
    (1, 0, 3, 1)
    """
    component = largest_component(min_max(cam) >= threshold)
    if not component.any():
        return None
    ys, xs = component.nonzero().unbind(dim=1)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def min_max(cam: Tensor) -> Tensor:
    """Stretches a map to [0, 1]: its lowest value becomes 0, its highest 1; a constant map becomes zeros.

    Thresholds of boxes are shares of this range, in ``CAMResult.boxes`` as in ``crt.metrics``.

    Args:
        cam: (H, W) of any scale.

    Returns:
        (H, W) float32.

    Raises:
        ValueError: another shape, or NaN or infinite values.
    """
    if cam.ndim != 2 or not cam.numel():
        raise ValueError(f"a map is (H, W), got {tuple(cam.shape)}.")
    low, high = check_finite(cam).float().aminmax()
    cam = cam.float()
    return (cam - low) / (high - low) if high > low else torch.zeros_like(cam)


def pool_maps(maps: Tensor, share: float = 1.0) -> Tensor:
    """Image-level scores: for each map the mean of its highest cells.

    Args:
        maps: (..., H, W), any sign.
        share: of the cells, above 0 and up to 1; 1 is the plain mean (the paper's).

    Returns:
        (...,).

    >>> pool_maps(torch.tensor([[[0.0, 2.0], [1.0, 5.0]]]), 0.5)
    tensor([3.5000])
    """
    cells = maps.flatten(-2)
    if share == 1:
        return cells.mean(dim=-1)
    return cells.topk(max(1, round(share * cells.shape[-1])), dim=-1).values.mean(dim=-1)


def snapped_size(height: int, width: int, scale: float, patch: int) -> tuple[int, int]:
    """The size nearest above (height, width) * scale that is a whole number of patches in both directions.

    >>> snapped_size(375, 500, 0.5, 16)
    (192, 256)
    """
    h, w = (max(1, math.ceil(round(side * scale, 6) / patch)) * patch for side in (height, width))
    return h, w


def merge_scales(maps: Sequence[Tensor], size: tuple[int, int], *, align: Align = "exact") -> Tensor:
    """Sums maps of several scales at one size.

    Args:
        maps: (k, h_i, w_i) each, unnormalized.
        size: (H, W) of the result.
        align: "exact" interpolates straight to ``size``; "reference" to the multiple of 16 above it, cropped.

    Returns:
        (k, H, W), the sum.  ``normalize_cam`` makes it a CAM.
    """
    if not maps:
        raise ValueError("merge_scales needs the maps of at least one scale.")
    whole = size if align == "exact" else (math.ceil(size[0] / 16) * 16, math.ceil(size[1] / 16) * 16)
    total = maps[0].new_zeros(maps[0].shape[0], *size)
    for scale in maps:
        total += resize(scale, whole)[:, : size[0], : size[1]]
    return total


def mask_from_cam(cam: Tensor, labels: Sequence[int], threshold: float) -> Tensor:
    """The seed: at each pixel the class of the highest map, or background where none exceeds the threshold.

    Args:
        cam: (k, H, W) maps in [0, 1] of the classes ``labels``.
        labels: k class indices from 0.
        threshold: score of the background, 0 to 1.

    Returns:
        (H, W) uint8, or int32 beyond 254 classes; 0 is background, class i is i + 1.

    Raises:
        ValueError: other than one map a label, or maps with NaN or infinite values.
    """
    if cam.shape[0] != len(labels):
        raise ValueError(f"{cam.shape[0]} maps for {len(labels)} labels.")
    check_finite(cam)
    dtype = torch.uint8 if max(labels, default=0) < 254 else torch.int32
    mask = torch.zeros(cam.shape[-2:], dtype=dtype, device=cam.device)
    highest = torch.full_like(mask, threshold, dtype=cam.dtype)
    for label, scores in zip(labels, cam, strict=True):  # map by map: argmax over the first axis is much slower
        mask.masked_fill_(scores > highest, label + 1)
        highest = torch.fmax(highest, scores)
    return mask


def largest_component(mask: Tensor) -> Tensor:
    """The largest 8-connected component of a mask; the first in reading order of the last pixels breaks a tie.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) bool; all False if ``mask`` is.
    """
    device, mask = mask.device, mask.cpu()
    own = torch.arange(1, mask.numel() + 1).view(mask.shape)
    labels = own * mask
    while True:
        # Take the largest label around, then the label of the pixel that label names: paths halve at every turn.
        grown = F.max_pool2d(labels[None, None].double(), 3, stride=1, padding=1)[0, 0].long() * mask
        grown = torch.where(mask, grown.flatten()[(grown - 1).clamp(min=0)], grown)
        if torch.equal(grown, labels):
            break
        labels = grown
    sizes = torch.bincount(labels.flatten())
    sizes[0] = 0
    return (labels.eq(sizes.argmax()) & mask).to(device)
