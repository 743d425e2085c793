"""Spreading: maps flow between patches whose features point the same way, wherever in the photo they lie.

A self-supervised transformer gives the patches of one object similar features.  A patch's score becomes a mean of the
scores of all patches, weighted by A = max(cos, 0)^power with rows that sum to one, so that a flat map stays as it is.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["spread"]

CELLS = 2**24  # entries of the affinity that are held at once (64 MB)


def spread(maps: Tensor, features: Tensor, *, power: float = 4.0, rounds: int = 1) -> Tensor:
    """Maps times A, ``rounds`` times; A is never held as a whole.

    Args:
        maps: (k, N) floating point, values of N patches.
        features: (N, D) floating point.
        power: exponent of the positive cosines, above 0; the higher, the fewer patches count.
        rounds: how often the maps are spread, at least 1.

    Returns:
        (k, N), the dtype of ``maps``; each value is a weighted mean of the map's values.  Computed in float32.

    >>> spread(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    with torch.autocast(features.device.type, enabled=False):
        directions, values = F.normalize(features.float(), dim=-1), maps.float().T
        for _ in range(rounds):
            rows = []
            for some in directions.split(max(1, CELLS // len(directions))):
                affinity = (some @ directions.T).clamp_(min=0).pow_(power)
                rows.append((affinity @ values) / affinity.sum(dim=-1, keepdim=True).clamp(min=1e-12))
            values = torch.cat(rows)
        return values.T.to(maps.dtype)
