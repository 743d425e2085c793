"""Measuring CAMs and masks."""

from crt.metrics.record import make_record
from crt.metrics.seeds import seed_curve
from crt.metrics.segmentation import SeedCurve, iou_per_class, mean_iou

__all__ = ["SeedCurve", "iou_per_class", "make_record", "mean_iou", "seed_curve"]
