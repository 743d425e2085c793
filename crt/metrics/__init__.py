"""Measures of CAMs, masks, boxes and logits: arithmetic on tensors, without data sets or class names.

Each file holds one measure: the pure function, then a torchmetrics ``Metric`` that sums its counts, on any device and
over several processes.  ``crt.evaluate`` measures whole lists with them.
"""

from crt.metrics.boundary_iou import BoundaryIoU
from crt.metrics.boxes import BoxCurve
from crt.metrics.localization import Localization
from crt.metrics.mask_iou import MaskIoU
from crt.metrics.multilabel_ap import MultilabelAP
from crt.metrics.seed_curve import SeedCurve

__all__ = [
    "BoundaryIoU",
    "BoxCurve",
    "Localization",
    "MaskIoU",
    "MultilabelAP",
    "SeedCurve",
]
