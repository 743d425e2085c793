"""What the metrics share: sums of counts as torchmetrics states.

Sums let parts of a list be measured by several processes; ``compute`` then gives each the result of the whole.  Where a
result has a single number torchmetrics makes it a scalar, whatever its shape.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["Counts", "rising_thresholds"]


class Counts(Metric):
    """What the metrics here share: nothing to differentiate, an update does not depend on those before it."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def add_counts(self, name: str, *size: int) -> None:
        self.add_state(name, torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    def add_settings(self, *values: float) -> None:
        """Settings as a state: a ``MetricCollection`` takes metrics of equal states for one."""
        self.add_state("settings", torch.tensor(values, dtype=torch.float64), dist_reduce_fx="max")


def rising_thresholds(thresholds: Sequence[float]) -> Tensor:
    values = torch.tensor(thresholds, dtype=torch.float32)
    if values.numel() == 0 or not ((values >= 0) & (values <= 1)).all() or not (values.diff() > 0).all():
        raise ValueError(f"thresholds must be rising, 0 to 1, got {list(thresholds)}.")
    return values
