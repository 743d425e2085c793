"""Average precision of image-level scores."""

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["MultilabelAP", "average_precision"]


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
    scores, targets, counted = _as_rankings(scores, targets, counted)
    columns = zip(scores.unbind(1), targets.unbind(1), counted.unbind(1), strict=True)
    values = [_one_class(score[kept], target[kept]) for score, target, kept in columns]
    return torch.stack(values) if values else scores.new_zeros(0).double()


class MultilabelAP(Metric):
    """Mean average precision of image-level scores over classes; see ``average_precision``.

    The scores of all photos are kept, K numbers a photo: this average cannot be had from sums.  Of several processes
    each needs a photo.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    targets: list[Tensor]
    counted: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("scores", "targets", "counted"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, targets: Tensor, counted: Tensor | None = None) -> None:
        """Adds photos: (B, K) each; ``counted`` false leaves a photo out for a class (VOC's difficult labels)."""
        scores, targets, counted = _as_rankings(scores, targets, counted)
        self.scores.append(scores.to(self.device))
        self.targets.append(targets.to(self.device))
        self.counted.append(counted.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """``ap``, (K,), NaN for a class that no photo shows; ``map``, the mean over the others."""
        if not len(self.scores):
            raise ValueError("average precision of no photos: update comes first.")
        # Before several processes gather their lists, torchmetrics joins each of them to one tensor.
        lists = (self.scores, self.targets, self.counted)
        scores, targets, counted = (value if isinstance(value, Tensor) else torch.cat(value) for value in lists)
        ap = average_precision(scores, targets, counted)
        return {"map": ap.nanmean(), "ap": ap}


def _as_rankings(scores: Tensor, targets: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
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
