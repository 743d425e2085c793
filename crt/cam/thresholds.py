"""Background thresholds without masks: a mixture of three Gaussians over the scores of many images.

The highest score of each pixel over the classes of its image is background, unsure or object.  A mixture fitted to many
of these scores tells the three apart, as in CoSA (Yang et al., ECCV 2024, which fits its thresholds this way during
training); no ground-truth mask is read.  Expectation maximization starts from fixed quantiles, so it is deterministic.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Mixture", "fit_mixture", "fit_thresholds"]

COUNT = 3
_LEAST_STD = 1e-3  # of a component; a narrower one would stand on a single value
_GRID = 2001  # scores at which components are compared


class Mixture(NamedTuple):
    """Gaussians in the order of their means, (3,) float64 each: share, mean and standard deviation."""

    weight: Tensor
    mean: Tensor
    std: Tensor


def fit_mixture(scores: Tensor, *, iterations: int = 200, tolerance: float = 1e-7) -> Mixture:
    """Three Gaussians by expectation maximization, in float64.

    Args:
        scores: any shape, floating point, at least 100 values; a few tens of thousands are plenty.
        iterations: at most so many steps.
        tolerance: stop when the mean log likelihood gains less than this.

    Raises:
        ValueError: fewer than 100 scores, or scores that are not finite.
    """
    x = scores.detach().flatten().double().cpu()
    if len(x) < 100 or not torch.isfinite(x).all():
        raise ValueError(f"a mixture needs at least 100 finite scores, got {len(x)} values.")
    ordered = x.sort().values
    mean = torch.stack([ordered[int(share * (len(x) - 1))] for share in (0.1, 0.5, 0.9)])
    std = (x.std() / COUNT).clamp(min=_LEAST_STD).repeat(COUNT)
    weight, before = torch.full((COUNT,), 1 / COUNT, dtype=torch.float64), -math.inf
    for _ in range(iterations):
        joint = _log_joint(x, Mixture(weight, mean, std))
        likelihood = joint.logsumexp(dim=1)
        belongs = (joint - likelihood[:, None]).exp()
        total = belongs.sum(dim=0).clamp(min=1e-9)
        weight, mean = total / len(x), (belongs * x[:, None]).sum(dim=0) / total
        std = ((belongs * (x[:, None] - mean) ** 2).sum(dim=0) / total).sqrt().clamp(min=_LEAST_STD)
        gain, before = float(likelihood.mean()) - before, float(likelihood.mean())
        if gain < tolerance:
            break
    order = mean.argsort()
    return Mixture(weight[order], mean[order], std[order])


def fit_thresholds(scores: Tensor) -> tuple[float, float]:
    """(low, high): below ``low`` a pixel is likeliest background, above ``high`` likeliest object, between them unsure.

    Args:
        scores: the highest score over the classes of many pixels of many images, in [0, 1].

    Raises:
        ValueError: see ``fit_mixture``; or scores outside [0, 1].

    >>> spread = torch.linspace(-0.05, 0.05, 101)
    >>> low, high = fit_thresholds(torch.cat([spread + 0.1, spread + 0.4, spread + 0.8]))
    >>> 0.15 < low < 0.35 and 0.45 < high < 0.75
    True
    """
    if scores.numel() and not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError(f"scores must be in [0, 1], got {float(scores.min())} to {float(scores.max())}.")
    mixture = fit_mixture(scores)
    grid = torch.linspace(0, 1, _GRID, dtype=torch.float64)
    joint = _log_joint(grid, mixture)
    first, middle, last = (float(mean.clamp(0, 1)) for mean in mixture.mean)
    # Between two neighboring means the likelier component changes once; a wide tail beyond them does not count.
    low = _crossing(grid, joint[:, 0] >= joint[:, 1], first, middle)
    high = _crossing(grid, joint[:, 1] >= joint[:, 2], middle, last)
    return low, max(low, high)


def _log_joint(x: Tensor, mixture: Mixture) -> Tensor:
    """(n,) -> (n, 3): the logarithms of share times density."""
    distance = (x[:, None] - mixture.mean) / mixture.std
    return mixture.weight.log() - mixture.std.log() - math.log(2 * math.pi) / 2 - distance**2 / 2


def _crossing(grid: Tensor, lower: Tensor, start: float, end: float) -> float:
    """The first score from ``start`` to ``end`` at which the lower component is not the likelier one."""
    beyond = grid[(grid >= start) & (grid <= end) & ~lower]
    return float(beyond[0]) if len(beyond) else end
