"""Measuring CAMs, masks and boxes.

The functions are pure.  The classes hold their counts as torchmetrics Metrics: they run on any device and over several
processes.  Names are loaded when first used, so that the functions do not wait for torchmetrics.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crt.metrics.boundary import boundary_counts, boundary_pixels
    from crt.metrics.boxes import best_overlaps, box_iou, component_boxes, largest_boxes, min_max
    from crt.metrics.localisation import BoxReport, measure_boxes
    from crt.metrics.modules import BoundaryIoU, BoxCurve, Localisation, MaskIoU, MultilabelAP, SeedCurve
    from crt.metrics.ranking import average_precision
    from crt.metrics.record import make_record
    from crt.metrics.seeds import MaskReport, SeedReport, load_maps, measure_masks, measure_seeds, seed_curve
    from crt.metrics.segmentation import (
        confusion_matrix,
        error_rates,
        iou_per_class,
        mean_iou,
        seed_confusion,
        seed_histogram,
    )

__all__ = [
    "BoundaryIoU",
    "BoxCurve",
    "BoxReport",
    "Localisation",
    "MaskIoU",
    "MaskReport",
    "MultilabelAP",
    "SeedCurve",
    "SeedReport",
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
    "load_maps",
    "make_record",
    "mean_iou",
    "measure_boxes",
    "measure_masks",
    "measure_seeds",
    "min_max",
    "seed_confusion",
    "seed_curve",
    "seed_histogram",
]

_HOME = {
    **dict.fromkeys(["boundary_counts", "boundary_pixels"], "boundary"),
    **dict.fromkeys(["best_overlaps", "box_iou", "component_boxes", "largest_boxes", "min_max"], "boxes"),
    **dict.fromkeys(["BoxReport", "measure_boxes"], "localisation"),
    **dict.fromkeys(["average_precision"], "ranking"),
    **dict.fromkeys(["make_record"], "record"),
    **dict.fromkeys(["MaskReport", "SeedReport", "load_maps", "measure_masks", "measure_seeds", "seed_curve"], "seeds"),
    **dict.fromkeys(["confusion_matrix", "error_rates", "iou_per_class", "mean_iou"], "segmentation"),
    **dict.fromkeys(["seed_confusion", "seed_histogram"], "segmentation"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'crt.metrics' has no attribute {name!r}")
    return getattr(import_module(f"crt.metrics.{_HOME.get(name, 'modules')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
