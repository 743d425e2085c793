"""From labels to pseudo masks on cached features: objectness, spread class maps, targets for a head with background."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crt.train.features import FeatureCache

__all__ = ["fit_objectness", "pseudo_targets", "spread"]


@torch.no_grad()
def fit_objectness(cache: FeatureCache, *, quantile: float = 0.9) -> nn.Conv2d:
    """A linear map of the features that tells objects from what lies around them, learned without any label.

    It is the ridge regression of the class token's attention, clipped at a quantile and scaled to 0..1 in each image,
    onto the patches: what the attention finds in many images is kept, and what it sees in one by chance is not.

    Args:
        cache: the features.
        quantile: where the attention of an image is clipped, above 0 and up to 1.

    Returns:
        A 1 x 1 convolution of D to 1 channels; scale its map to 0..1 in each image.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must be above 0 and at most 1, got {quantile}.")
    dim = cache.means().shape[1]
    squares, products = torch.zeros(dim + 1, dim + 1, dtype=torch.float64), torch.zeros(dim + 1, dtype=torch.float64)
    for index in range(len(cache)):
        found = cache[index]
        x = F.pad(found.patches.flatten(1).T, (0, 1), value=1.0).double()
        y = found.attention.flatten()
        y = _unit(y.clamp_max(float(y.quantile(quantile)))).double()
        squares += x.T @ x / len(x)
        products += x.T @ y / len(x)
    ridge = 1e-3 * squares.diag().mean() * torch.eye(dim + 1, dtype=torch.float64)
    solution = torch.linalg.solve(squares + ridge, products).float()
    conv = nn.Conv2d(dim, 1, kernel_size=1)
    conv.weight.copy_(solution[:-1].view(1, -1, 1, 1))
    conv.bias = nn.Parameter(solution[-1:].clone())
    return conv.eval().requires_grad_(False)


def spread(patches: Tensor, maps: Tensor, power: float = 4.0) -> Tensor:
    """Spreads maps once by the affinity of the features, max(cosine, 0) ** power with rows that sum to 1.

    Args:
        patches: (D, h, w) features.
        maps: (C, h, w).
        power: the higher, the closer to the maps as they are.

    Returns:
        (C, h, w).
    """
    unit = F.normalize(patches.flatten(1).T, dim=1)
    affinity = (unit @ unit.T).clamp_min(0) ** power
    spreaded = maps.flatten(1) @ (affinity / affinity.sum(dim=1, keepdim=True)).T
    return spreaded.reshape(maps.shape)


def pseudo_targets(
    cache: FeatureCache,
    head: nn.Conv2d,
    objectness: nn.Conv2d | None = None,
    *,
    background: float = 0.38,
    foreground: float = 0.55,
    floor: float = 0.05,
    power: float = 4.0,
) -> Callable[[int], Tensor]:
    """Targets for ``train_head`` from a head that knows the labels.

    The class maps of the labels, without what is negative, times the objectness, are spread and divided by their
    maxima; a patch belongs to the highest map if that is above ``foreground``, to the background if it is below
    ``background``, and otherwise does not count.

    Args:
        cache: the features.
        head: of K classes (``train_head``).
        objectness: from ``fit_objectness``; None uses none.
        background, foreground: thresholds, 0 <= background <= foreground <= 1.
        floor: least objectness.
        power: see ``spread``.

    Returns:
        A function of an index; it returns (h, w) integers: 0, i + 1 for class i, or 255.
    """
    if not 0 <= background <= foreground <= 1:
        raise ValueError(f"thresholds must be 0 <= background <= foreground <= 1, got {background} and {foreground}.")

    @torch.no_grad()
    def targets(index: int) -> Tensor:
        patches = cache[index].patches
        labels = cache.targets[index].nonzero()[:, 0]
        if not len(labels):
            return torch.zeros(patches.shape[1:], dtype=torch.long)
        maps = head(patches[None])[0, labels].clamp_min(0)
        if objectness is not None:
            maps = maps * _unit(objectness(patches[None])[0]).clamp_min(floor)
        maps = spread(patches, maps, power)
        best, place = (maps / (maps.amax(dim=(1, 2), keepdim=True) + 1e-5)).max(dim=0)
        unsure = torch.where(best < background, 0, 255)
        return torch.where(best > foreground, labels[place] + 1, unsure)

    return targets


def _unit(x: Tensor) -> Tensor:
    """Scaled to 0..1."""
    return (x - x.min()) / (x.max() - x.min() + 1e-6)
