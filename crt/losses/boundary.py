"""What a boundary network learns from: pairs of cells of the same class, and of different ones.

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019 (IRN), section
4.  The network itself is ``crt.models.BoundaryNet``; ``crt.refine.RandomWalk`` uses its boundaries.

A pair is two cells less than ``radius`` apart (``displacements``), both of which have a label.  Of two cells of one
class the path between them must be free of boundary, of two cells of different classes it must not.  Two cells of the
same object point to the same place, so that their displacements differ by the way from one to the other.

Departures: every pair inside the crop counts, where the public code leaves out those near its border; the losses have
half the weight that the paper writes, as in the public code.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from crt.cam.paths import displacements, path_affinity

__all__ = ["BoundaryLoss", "PairKinds", "affinity_loss", "boundary_loss", "displacement_loss", "pair_kinds"]

UNKNOWN = 255
EPSILON = 1e-5  # keeps the logarithm of an affinity of 0 finite


class PairKinds(NamedTuple):
    """Which pairs are of which kind, (B, P, h, w) bool each; entry (b, p, y, x) is the pair of ``path_affinity``.

    Attributes:
        background: both cells are background.
        foreground: both are of the same class.
        different: they are of different classes, one of which may be the background.
    """

    background: Tensor
    foreground: Tensor
    different: Tensor


class BoundaryLoss(NamedTuple):
    """Scalars: ``total`` = ``affinity`` + ``displacement``."""

    total: Tensor
    affinity: Tensor
    displacement: Tensor


def boundary_loss(boundary: Tensor, displacement: Tensor, labels: Tensor, *, radius: int = 10) -> BoundaryLoss:
    """Both losses of a boundary network, computed in float32 at least.

    Args:
        boundary: (B, 1, h, w) in [0, 1].
        displacement: (B, 2, h, w), the way (y, x) in cells from each cell to the middle of its object.
        labels: (B, h, w) integers; 0 background, class i as i + 1, 255 unknown.
        radius: in cells, at least 2.

    Raises:
        ValueError: shapes that do not fit each other, or no integer labels.
    """
    b, h, w = labels.shape if labels.ndim == 3 else (-1, -1, -1)
    if tuple(boundary.shape) != (b, 1, h, w) or tuple(displacement.shape) != (b, 2, h, w):
        raise ValueError(
            "expected boundary (B, 1, h, w), displacement (B, 2, h, w) and labels (B, h, w), got "
            f"{tuple(boundary.shape)}, {tuple(displacement.shape)} and {tuple(labels.shape)}."
        )
    kinds = pair_kinds(labels, radius)
    dtype = torch.promote_types(boundary.dtype, torch.float32)
    along_paths = affinity_loss(path_affinity(boundary.to(dtype), radius), kinds)
    ways = displacement_loss(displacement.to(dtype), kinds, radius)
    return BoundaryLoss(along_paths + ways, along_paths, ways)


def pair_kinds(labels: Tensor, radius: int) -> PairKinds:
    """The kinds of all pairs; those with a cell that is unknown or outside are of none.

    Args:
        labels: (B, h, w) integers; 0 background, class i as i + 1, 255 unknown.
        radius: in cells, at least 2.

    >>> kinds = pair_kinds(torch.tensor([[[0, 0, 3, 3, 255]]]), 2)
    >>> [kind[0, 0, 0].tolist().index(True) for kind in kinds]  # the first pair to the right of each kind
    [0, 2, 1]
    """
    if labels.ndim != 3 or labels.is_floating_point():
        raise ValueError(f"labels are integers of shape (B, h, w), got {labels.dtype} {tuple(labels.shape)}.")
    first = labels[:, None]
    second = torch.stack(list(_seconds(labels, radius, UNKNOWN)), dim=1)
    known, same = (first != UNKNOWN) & (second != UNKNOWN), first == second
    return PairKinds(known & same & (first == 0), known & same & (first != 0), known & ~same)


def affinity_loss(affinity: Tensor, kinds: PairKinds) -> Tensor:
    """Cross-entropy of the pairs' affinities: mean over each kind, weighted 1/4, 1/4 and 1/2 (different).

    Args:
        affinity: (B, P, h, w) in [0, 1], as ``path_affinity`` gives it.
        kinds: of the same pairs; a kind without pairs adds nothing.

    Returns:
        A scalar.
    """
    agreement = torch.where(kinds.different, 1 - affinity, affinity)
    background, foreground, different = (kind * (1 / kind.sum().clamp(min=1)) for kind in kinds)
    return -((agreement + EPSILON).log() * (background / 4 + foreground / 4 + different / 2)).sum()


def displacement_loss(displacement: Tensor, kinds: PairKinds, radius: int) -> Tensor:
    """L1 distance of displacement differences from what they must be: mean over both kinds of equal cells, 1/2 each.

    Of two cells of one class, the difference (first - second) must be the way from the first to the second; of two
    cells of background, zero.

    Args:
        displacement: (B, 2, h, w), (y, x) in cells.
        kinds: of the pairs within ``radius``; a kind without pairs adds nothing.

    Returns:
        A scalar.
    """
    on_background = on_foreground = displacement.new_zeros(())
    for p, (pair, second) in enumerate(zip(displacements(radius), _seconds(displacement, radius), strict=True)):
        difference = displacement - second
        way = difference.new_tensor(pair).view(2, 1, 1)
        on_background = on_background + (difference.abs() * kinds.background[:, p, None]).sum()
        on_foreground = on_foreground + ((difference - way).abs() * kinds.foreground[:, p, None]).sum()
    counts = [2 * kind.sum().clamp(min=1) for kind in (kinds.background, kinds.foreground)]
    return (on_background / counts[0] + on_foreground / counts[1]) / 2


def _seconds(x: Tensor, radius: int, fill: int = 0) -> Iterator[Tensor]:
    """For each of ``displacements(radius)`` the value of the pair's second cell at the first, or ``fill`` outside."""
    (h, w), reach = x.shape[-2:], radius - 1
    padded = F.pad(x, (reach, reach, 0, reach), value=fill)
    for dy, dx in displacements(radius):
        yield padded[..., dy : dy + h, reach + dx : reach + dx + w]
