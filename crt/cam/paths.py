"""Path affinity: two cells belong together if no boundary lies on the line between them.

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019, section 4.2.
The random walk and the training of the boundary network share this one implementation.

The cells of a line are those of the rectangle between its ends whose center is less than one cell away from it, both
ends included.  Agreement with the public reference is tested for radius 5; a distance of exactly one cell first
occurs at radius 6 (displacement (3, 4)), and is outside here.
"""

from collections.abc import Iterator
from functools import reduce
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["displacements", "line", "path_affinity"]


def displacements(radius: int) -> list[tuple[int, int]]:
    """Every (dy, dx) shorter than ``radius`` cells, one of each opposite pair: below, or to the right in the same row.

    >>> displacements(2)
    [(0, 1), (1, -1), (1, 0), (1, 1)]
    """
    if radius < 2:
        raise ValueError(f"radius must be at least 2 cells, to reach the next cell; got {radius}.")
    half = [(dy, dx) for dy in range(radius) for dx in range(1 - radius, radius) if (dy, dx) > (0, 0)]
    return [(dy, dx) for dy, dx in half if dy * dy + dx * dx < radius * radius]


def line(dy: int, dx: int) -> list[tuple[int, int]]:
    """The cells (y, x) on the line from (0, 0) to (dy, dx), both included.

    >>> line(1, 2)
    [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    """
    rows, columns = (range(min(end, 0), max(end, 0) + 1) for end in (dy, dx))
    return [(y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < dy * dy + dx * dx]


def path_affinity(boundary: Tensor, radius: int) -> Tensor:
    """Affinity of every cell with the cells within a radius: 1 - max boundary on the line between the two.

    The maximum is taken over ranks and looked up at the end, so that what is kept for the gradient does not grow with
    the length of the lines.

    Args:
        boundary: (B, 1, h, w), floating point in [0, 1].
        radius: in cells, at least 2; see ``displacements``.

    Returns:
        (B, P, h, w) in [0, 1], the dtype of ``boundary``.  Entry (b, p, y, x) is the affinity of the cells (y, x) and
        (y, x) + ``displacements(radius)[p]``, or 0 where the second lies outside.
    """
    if boundary.ndim != 4 or boundary.shape[1] != 1 or not boundary.is_floating_point():
        raise ValueError(
            f"expected a floating-point boundary of shape (B, 1, h, w), got {boundary.dtype} {tuple(boundary.shape)}."
        )
    (b, _, h, w), pairs, reach = boundary.shape, displacements(radius), radius - 1
    ordered, order = boundary.flatten(1).sort(dim=1)
    places = torch.arange(h * w, device=boundary.device, dtype=torch.int32).expand(b, -1)
    ranks = torch.empty_like(places).scatter_(1, order, places).view(b, h, w)
    # What lies outside is a boundary above all others.
    ranks, ordered = F.pad(ranks, (reach, reach, 0, reach), value=h * w), F.pad(ordered, (0, 1), value=1.0)
    # A line is a run of cells in each of its rows: runs[n] has the maxima over n + 1 cells from each on.
    runs = [ranks]
    for length in range(1, radius):
        runs.append(torch.maximum(runs[-1][..., :-1], ranks[..., length:]))
    highest = [
        reduce(torch.maximum, (runs[n - 1][:, y : y + h, reach + x : reach + x + w] for y, x, n in _rows(*pair)))
        for pair in pairs
    ]
    return 1 - ordered.gather(1, torch.stack(highest, dim=1).flatten(1).long()).view(b, len(pairs), h, w)


def _rows(dy: int, dx: int) -> Iterator[tuple[int, int, int]]:
    """Each row of a line: y, the first x and the number of cells."""
    for y, cells in groupby(line(dy, dx), key=lambda cell: cell[0]):
        columns = [x for _, x in cells]
        yield y, columns[0], len(columns)
