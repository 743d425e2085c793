"""Boxes of class activation maps, at all thresholds at once, and how well they fit (Choe et al., CVPR 2020).

Boxes are XYXY in pixels: x0, y0 the first column and row, x1, y1 the first behind the box, as in ``CAMResult.boxes``;
a box of one pixel is (x, y, x + 1, y + 1).

How: a map is cut into runs, stretches of a row that stay above a threshold.  Runs of all thresholds are found from the
steps between neighboring pixels and joined into components together, so the cost grows with the number of runs, not
with thresholds times pixels.

Departure: the largest component is that of most pixels, as in the paper's text; the authors' code takes the outline
that encloses the largest area, holes included, and clips boxes a pixel short of the border.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from crt.cam.functional import min_max
from crt.metrics._counts import Counts, rising_thresholds

__all__ = ["BoxCurve", "Components", "best_overlaps", "box_iou", "component_boxes", "largest_boxes"]


class Components(NamedTuple):
    """The 8-connected components of a map at several thresholds.

    Attributes:
        levels: (n,) int64, rising: which threshold.
        sizes: (n,) int64, in pixels.
        boxes: (n, 4) int64, XYXY.
    """

    levels: Tensor
    sizes: Tensor
    boxes: Tensor


def component_boxes(cam: Tensor, thresholds: Tensor) -> Components:
    """Finds the components of the pixels that reach each threshold.

    Args:
        cam: (H, W).
        thresholds: (T,), rising.

    Returns:
        The components, threshold by threshold; those of one threshold in row-major order of their last pixels.

    >>> component_boxes(torch.tensor([[0.9, 0.2, 0.0, 0.5]]), torch.tensor([0.1, 0.4])).boxes.tolist()
    [[0, 0, 2, 1], [3, 0, 4, 1], [0, 0, 1, 1], [3, 0, 4, 1]]
    """
    height, width = cam.shape
    starts, ends = _runs(torch.bucketize(cam.float().contiguous(), thresholds.to(cam.device).float(), right=True))
    row_step = width + 2
    # A run touches those of the next row that end at or behind its start and start at or before its end (8-connected).
    first = torch.searchsorted(ends, starts + row_step)
    number = torch.searchsorted(starts, ends + row_step, right=True) - first
    above, nth = _repeated(number)
    last_run = _joined(len(starts), above, first[above] + nth)

    row, x0, x1 = starts // row_step, starts % row_step, ends % row_step
    y = row % (height + 1)
    sizes = torch.zeros_like(starts).index_add(0, last_run, x1 - x0)
    corners = [
        torch.zeros_like(starts).scatter_reduce(0, last_run, values, reduce, include_self=False)
        for values, reduce in ((x0, "amin"), (y, "amin"), (x1, "amax"), (y + 1, "amax"))
    ]
    roots = (last_run == torch.arange(len(starts), device=cam.device)).nonzero().flatten()
    return Components(row[roots] // (height + 1), sizes[roots], torch.stack(corners, dim=1)[roots])


def largest_boxes(components: Components, thresholds: int) -> Tensor:
    """Takes the box of the largest component at each threshold, the first of the list among equals.

    Returns:
        (T, 4) int64, XYXY; zeros where no pixel reaches the threshold.
    """
    levels, sizes, boxes = components
    count = len(sizes)
    rank = sizes * count + torch.arange(count - 1, -1, -1, device=sizes.device)
    best = torch.full((thresholds,), -1, device=sizes.device).scatter_reduce(0, levels, rank, "amax")
    found = boxes.new_zeros(thresholds, 4)
    found[best >= 0] = boxes[count - 1 - best[best >= 0] % max(count, 1)]
    return found


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Computes intersection over union: (n, 4) and (m, 4) XYXY -> (n, m) float64; 0 between empty boxes.

    As ``torchvision.ops.box_iou`` in float64; torchvision is not among this library's core dependencies.

    >>> box_iou(torch.tensor([[0, 0, 2, 2]]), torch.tensor([[1, 0, 3, 2], [2, 0, 3, 2]]))
    tensor([[0.3333, 0.0000]], dtype=torch.float64)
    """
    a, b = boxes.double()[:, None], others.double()[None]
    both = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    union = (a[..., 2:] - a[..., :2]).prod(dim=-1) + (b[..., 2:] - b[..., :2]).prod(dim=-1) - both
    return torch.where(union > 0, both / union, 0.0)


def best_overlaps(cam: Tensor, target: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Measures how well the boxes of a map fit the true ones, at each threshold.

    Args:
        cam: (H, W) of any scale; brought to [0, 1] by ``min_max``.
        target: (m, 4) XYXY in pixels of the map, m at least 1; the best fitting one counts.
        thresholds: (T,), rising; a pixel belongs to the object if it reaches the threshold.

    Returns:
        IoU of the largest component's box, and of the best of all components' boxes: (T,) float64 each, 0 where no
        pixel reaches the threshold.

    Raises:
        ValueError: not a map; no box, or one whose x1, y1 do not exceed x0, y0.
    """
    right = target.ndim == 2 and target.shape[1:] == (4,) and len(target) and bool(torch.isfinite(target).all())
    if not right or (target[:, 2:] <= target[:, :2]).any():
        shown = f"{target[:3].tolist()}{' ...' if len(target) > 3 else ''}" if target.ndim else target.item()
        raise ValueError(f"expected (m, 4) boxes x0, y0, x1, y1 with x1 > x0 and y1 > y0, got {shown}.")
    components = component_boxes(min_max(cam), thresholds)
    largest = box_iou(largest_boxes(components, len(thresholds)), target).amax(dim=1)
    overlaps = box_iou(components.boxes, target).amax(dim=1)
    every = overlaps.new_zeros(len(thresholds)).scatter_reduce(0, components.levels, overlaps, "amax")
    return largest, every


class BoxCurve(Counts):
    """MaxBoxAcc and MaxBoxAccV2 (Choe et al., CVPR 2020), and the curves over thresholds that they are the peaks of.

    An image's box is right if it overlaps one of the true boxes at the IoU or more.  MaxBoxAcc takes the box of the
    largest component, V2 the best of all components' boxes and the mean over the IoUs; both the threshold that is best
    on the list.

    Args:
        thresholds: rising, 0 to 1, of maps brought to [0, 1]; None takes 0, 0.01, ..., 0.99.
        ious: overlaps that count as found.

    >>> metric = BoxCurve([0.25, 0.75], ious=[0.5])
    >>> metric.update(torch.tensor([[0.0, 0.5, 1.0, 0.0]]), torch.tensor([[1, 0, 3, 1]]))
    >>> metric.compute()["box_acc"].flatten().tolist()
    [1.0, 1.0]
    """

    thresholds: Tensor
    ious: Tensor
    largest: Tensor
    every: Tensor
    images: Tensor

    def __init__(self, thresholds: Sequence[float] | None = None, *, ious: Sequence[float] = (0.3, 0.5, 0.7)) -> None:
        super().__init__()
        thresholds = [i / 100 for i in range(100)] if thresholds is None else thresholds
        self.register_buffer("thresholds", rising_thresholds(thresholds), persistent=False)
        if not ious or not all(0 < iou <= 1 for iou in ious):
            raise ValueError(f"ious must be above 0 to 1, got {list(ious)}.")
        self.register_buffer("ious", torch.tensor(ious, dtype=torch.float64), persistent=False)
        for name in ("largest", "every"):
            self.add_counts(name, len(thresholds), len(ious))
        self.add_counts("images")
        self.add_settings(*thresholds, *ious)

    def update(self, cam: Tensor, target: Tensor) -> None:
        """Adds an image: (H, W), the map of its true class, and (m, 4) boxes, XYXY in pixels of the map."""
        largest, every = best_overlaps(cam.to(self.device), target.to(self.device), self.thresholds)
        self.largest += largest[:, None] >= self.ious
        self.every += every[:, None] >= self.ious
        self.images += 1

    def compute(self) -> dict[str, Tensor]:
        """Shares of the images, in [0, 1].

        ``max_box_acc`` (D,) at each of the IoUs and ``max_box_acc_v2``; ``threshold`` (D,), where the first is reached;
        ``box_acc`` and ``box_acc_v2`` (T, D), the curves.
        """
        box_acc, box_acc_v2 = self.largest.double() / self.images, self.every.double() / self.images
        highest = box_acc.max(dim=0)
        return {
            "max_box_acc": highest.values,
            "max_box_acc_v2": box_acc_v2.amax(dim=0).mean(),
            "threshold": self.thresholds[highest.indices],
            "box_acc": box_acc,
            "box_acc_v2": box_acc_v2,
        }


def _runs(level: Tensor) -> tuple[Tensor, Tensor]:
    """Where runs start and end (first column behind), for all thresholds.

    Args:
        level: (H, W), how many of the T thresholds a pixel reaches.

    Returns:
        (r,) each, rising: (threshold * (H + 1) + row) * (W + 2) + column.
    """
    height, width = level.shape
    padded = torch.nn.functional.pad(level, (1, 1))
    left, right = padded[:, :-1].flatten(), padded[:, 1:].flatten()

    def places(low: Tensor, high: Tensor) -> Tensor:
        """A step from ``low`` to ``high`` is the border of one run at each threshold between."""
        edge, nth = _repeated((high - low).clamp(min=0))
        row, column = edge // (width + 1), edge % (width + 1)
        return (((low[edge] + nth) * (height + 1) + row) * (width + 2) + column).sort().values

    return places(left, right), places(right, left)


def _repeated(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Each index as often as ``counts`` says, and which time this is: [2, 0, 1] -> [0, 0, 2], [0, 1, 0]."""
    index = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    before = counts.cumsum(dim=0) - counts
    return index, torch.arange(len(index), device=counts.device) - before[index]


def _joined(count: int, a: Tensor, b: Tensor) -> Tensor:
    """The highest node that each of ``count`` nodes is connected with, by edges from ``a`` to ``b``."""
    top = torch.arange(count, device=a.device)
    while True:
        # The lower top of an edge's two ends points to the higher one, then every node to its top's top.
        ends = top[a], top[b]
        grown = top.scatter_reduce(0, torch.minimum(*ends), torch.maximum(*ends), "amax")
        grown = grown[grown]
        if torch.equal(grown, top):
            return top
        top = grown
