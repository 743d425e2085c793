"""Average precision of image-level scores."""

import torch
from torch import Tensor

__all__ = ["as_rankings", "average_precision"]


def average_precision(scores: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    """The area under each class's precision-recall steps, without interpolation; equal scores are one step.

    AP = sum over steps of (recall gained) * (precision after the step).

    Args:
        scores: (N, K) of any scale; higher means more likely.
        targets: (N, K); true where the class is in the photo.
        counted: (N, K); false leaves the photo out for that class (VOC's difficult labels).  None counts all.

    Returns:
        (K,) float64 in [0, 1]; NaN for a class that no counted photo shows.

    Raises:
        ValueError: the shapes differ, or a score is NaN.

    >>> average_precision(torch.tensor([[0.9], [0.8], [0.1]]), torch.tensor([[1], [0], [1]]))
    tensor([0.8333], dtype=torch.float64)
    """
    scores, targets, counted = as_rankings(scores, targets, counted)
    columns = zip(scores.unbind(1), targets.unbind(1), counted.unbind(1), strict=True)
    values = [_one_class(score[kept], target[kept]) for score, target, kept in columns]
    return torch.stack(values) if values else scores.new_zeros(0).double()


def as_rankings(scores: Tensor, targets: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of ``average_precision``, checked: scores of 32 bits at least, the others bool."""
    counted = torch.ones_like(targets, dtype=torch.bool) if counted is None else counted.bool()
    if scores.ndim != 2 or not scores.shape == targets.shape == counted.shape:
        raise ValueError(
            "scores, targets and counted must be (N, K) alike, "
            f"got {tuple(scores.shape)}, {tuple(targets.shape)} and {tuple(counted.shape)}."
        )
    if scores.isnan().any():
        raise ValueError("the scores have NaN values.")
    if not ((targets == 0) | (targets == 1)).all():
        raise ValueError("targets are 0 or 1; what does not count is said by counted.")
    return scores.to(torch.promote_types(scores.dtype, torch.float32)), targets.bool(), counted


def _one_class(scores: Tensor, targets: Tensor) -> Tensor:
    falling, order = scores.sort(descending=True)
    hits = targets[order].double()
    after = torch.searchsorted(-falling, -falling, right=True)  # how many photos stand no lower than this one
    precision = hits.cumsum(dim=0)[after - 1] / after
    return (precision * hits).sum() / hits.sum()
