"""Measures of CAMs, masks, boxes and logits: arithmetic on tensors, without data sets or class names.

Each file holds one measure: the pure function, then a torchmetrics ``Metric`` that sums its counts, on any device and
over several processes.  ``crt.evaluate`` measures whole lists with them.
"""

from crt.metrics.boundary_iou import BoundaryIoU, boundary_counts, boundary_pixels
from crt.metrics.boxes import BoxCurve, best_overlaps, box_iou, component_boxes, largest_boxes
from crt.metrics.localisation import Localisation
from crt.metrics.mask_iou import MaskIoU, confusion_matrix, error_rates, iou_per_class, mean_iou
from crt.metrics.multilabel_ap import MultilabelAP, average_precision
from crt.metrics.seed_curve import SeedCurve, seed_confusion, seed_histogram

__all__ = [
    "BoundaryIoU",
    "BoxCurve",
    "Localisation",
    "MaskIoU",
    "MultilabelAP",
    "SeedCurve",
    "average_precision",
    "best_overlaps",
    "boundary_counts",
    "boundary_pixels",
    "box_iou",
    "component_boxes",
    "confusion_matrix",
    "error_rates",
    "iou_per_class",
    "largest_boxes",
    "mean_iou",
    "seed_confusion",
    "seed_histogram",
]
