"""Measuring a job: the seeds, masks or boxes of a whole list, with the records, tables, curves and contact sheets."""

from crt.evaluate.boxes import measure_boxes
from crt.evaluate.classification import measure_classification
from crt.evaluate.masks import measure_masks, measure_segmentation
from crt.evaluate.seeds import measure_seeds

__all__ = [
    "measure_boxes",
    "measure_classification",
    "measure_masks",
    "measure_seeds",
    "measure_segmentation",
]
