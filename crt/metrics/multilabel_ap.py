"""Average precision of image-level scores.

``torchmetrics.classification.MultilabelAveragePrecision`` gives the same numbers for probabilities.  It passes logits
through a float32 sigmoid, though, where large ones become equal and their order is lost; so the ranking is done here.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["MultilabelAP", "average_precision"]


def average_precision(preds: Tensor, target: Tensor, *, ignore_index: int | None = None) -> Tensor:
    """Computes the area under each class's precision-recall steps, without interpolation; equal scores are one step.

    AP = sum over steps of (recall gained) * (precision after the step).

    Args:
        preds: (N, K) scores of any scale; higher means more likely.
        target: (N, K); 1 where the class is in the image, else 0.
        ignore_index: value in the target that leaves the image out for that class (VOC's difficult labels), or None.

    Returns:
        (K,) float64 in [0, 1]; NaN for a class that no image shows.

    Raises:
        ValueError: the shapes differ, a score is NaN, or the target has other values.

    >>> average_precision(torch.tensor([[0.9], [0.8], [0.1]]), torch.tensor([[1], [0], [1]]))
    tensor([0.8333], dtype=torch.float64)
    """
    preds, target = _check(preds, target, ignore_index)
    counted = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    columns = zip(preds.unbind(1), target.unbind(1), counted.unbind(1), strict=True)
    values = [_one_class(score[kept], true[kept]) for score, true, kept in columns]
    return torch.stack(values) if values else preds.new_zeros(0).double()


class MultilabelAP(Metric):
    """Mean average precision of image-level scores over classes; see ``average_precision``.

    The scores of all images are kept, K numbers an image: this average cannot be had from sums.

    Args:
        num_classes: K.
        ignore_index: value in the target that leaves the image out for that class, or None.

    >>> metric = MultilabelAP(num_classes=2)
    >>> metric.update(torch.tensor([[0.9, 0.2], [0.4, 0.7]]), torch.tensor([[1, 1], [0, 1]]))
    >>> metric.compute()["ap"].tolist()
    [1.0, 1.0]
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    preds: list[Tensor]
    target: list[Tensor]

    def __init__(self, num_classes: int, *, ignore_index: int | None = None) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        for name in ("preds", "target"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds images: (B, K) each, as in ``average_precision``."""
        preds, target = _check(preds, target, self.ignore_index)
        if preds.shape[1] != self.num_classes:
            raise ValueError(f"expected scores of {self.num_classes} classes, got {preds.shape[1]}.")
        self.preds.append(preds.to(self.device))
        self.target.append(target.to(self.device))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gathers the scores of all processes; one that has seen no image takes part with none."""
        if not len(self.preds):
            self.preds.append(torch.zeros(0, self.num_classes, device=self.device))
            self.target.append(torch.zeros(0, self.num_classes, dtype=torch.long, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """``ap``, (K,), NaN for a class that no image shows; ``map``, the mean over the others."""
        # Before several processes gather their lists, torchmetrics joins each of them to one tensor.
        preds, target = (
            value if isinstance(value, Tensor) else torch.cat(value or [torch.zeros(0, 0)])
            for value in (self.preds, self.target)
        )
        if not len(preds):
            raise ValueError("average precision of no images: call update first.")
        ap = average_precision(preds, target, ignore_index=self.ignore_index)
        return {"map": ap.nanmean(), "ap": ap}


def _check(preds: Tensor, target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """The arguments of ``average_precision``: floats of 32 bits at least, and int64."""
    if preds.ndim != 2 or preds.shape != target.shape:
        raise ValueError(f"preds and target must both be (N, K), got {tuple(preds.shape)} and {tuple(target.shape)}.")
    if preds.isnan().any():
        raise ValueError("preds has NaN values.")
    known = (target == 0) | (target == 1)
    if not (known if ignore_index is None else known | (target == ignore_index)).all():
        raise ValueError(f"target must be 0 or 1{'' if ignore_index is None else f', or {ignore_index} to ignore'}.")
    return preds.to(torch.promote_types(preds.dtype, torch.float32)), target.long()


def _one_class(preds: Tensor, target: Tensor) -> Tensor:
    falling, order = preds.sort(descending=True)
    hits = target[order].double()
    after = torch.searchsorted(-falling, -falling, right=True)  # how many images rank no lower than this one
    precision = hits.cumsum(dim=0)[after - 1] / after
    return (precision * hits).sum() / hits.sum()
