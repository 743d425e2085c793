"""Top-1 and Top-5 localization and GT-known (weakly supervised object localization, WSOL)."""

import torch
from torch import Tensor

from crt.metrics._counts import Counts
from crt.metrics.boxes import best_overlaps

__all__ = ["Localization"]


class Localization(Counts):
    """Top-1 and Top-5 localization and GT-known at a given threshold, for images of one class each.

    An image is localized if the box around the largest component of the map of its true class overlaps one of its true
    boxes at IoU ``iou`` or more (GT-known), and its class is among the k highest of the model's own classification
    (Top-k).  Classes that score the same as the true one stand before it.

    Args:
        threshold: share of the map's range, from its lowest value to its highest, that belongs to the object.
        iou: overlap that counts as found.

    >>> metric = Localization(threshold=0.4)
    >>> cam, box = torch.tensor([[0.0, 0.5, 1.0, 0.0]]), torch.tensor([[1, 0, 3, 1]])
    >>> metric.update(cam, box, logits=torch.tensor([0.2, 0.7]), label=0)
    >>> {name: value.item() for name, value in metric.compute().items()}
    {'gt_known': 1.0, 'top1_loc': 0.0, 'top5_loc': 1.0, 'top1_cls': 0.0, 'top5_cls': 1.0}
    """

    threshold: Tensor
    hits: Tensor
    images: Tensor
    names = ("gt_known", "top1_loc", "top5_loc", "top1_cls", "top5_cls")

    def __init__(self, threshold: float, *, iou: float = 0.5) -> None:
        super().__init__()
        if not (0 <= threshold <= 1 and 0 < iou <= 1):
            raise ValueError(f"threshold must be 0 to 1 and iou above 0 to 1, got {threshold} and {iou}.")
        self.register_buffer("threshold", torch.tensor([threshold]), persistent=False)
        self.iou = iou
        self.add_counts("hits", len(self.names))
        self.add_counts("images")
        self.add_settings(threshold, iou)

    def update(self, cam: Tensor, target: Tensor, logits: Tensor, label: int) -> None:
        """Adds an image.

        Args:
            cam: (H, W), the map of the true class.
            target: (m, 4) boxes, XYXY in pixels of the map; see ``crt.metrics.boxes``.
            logits: (K,) of the model.
            label: the true class.

        Raises:
            ValueError: not a map, not boxes, NaN logits, or a label beyond K - 1.
        """
        if logits.ndim != 1 or not 0 <= label < len(logits):
            raise ValueError(f"expected (K,) logits and a label below K, got {tuple(logits.shape)} and {label}.")
        if logits.isnan().any():
            raise ValueError("the logits have NaN values.")
        overlap, _ = best_overlaps(cam.to(self.device), target.to(self.device), self.threshold)
        found = bool(overlap[0] >= self.iou)
        rank = int((logits >= logits[label]).sum()) - 1
        outcome = [found, found and rank < 1, found and rank < 5, rank < 1, rank < 5]
        self.hits += torch.tensor(outcome, device=self.device)
        self.images += 1

    def compute(self) -> dict[str, Tensor]:
        """Shares of the images, in [0, 1], by ``names``: localization (loc) and classification (cls)."""
        return dict(zip(self.names, self.hits.double() / self.images, strict=True))
