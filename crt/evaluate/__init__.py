"""Measuring a job: the seeds, masks or boxes of a whole list, with the records, tables, curves and contact sheets."""

from crt.evaluate.boxes import BoxReport, measure_boxes
from crt.evaluate.classification import measure_classification
from crt.evaluate.masks import MaskReport, measure_masks, measure_segmentation
from crt.evaluate.record import make_record, seen_by, share, write_record
from crt.evaluate.report import level, percent, worst, write_plot, write_sheet
from crt.evaluate.seeds import SeedReport, load_maps, measure_seeds, seeds_of_folder, seeds_of_model

__all__ = [
    "BoxReport",
    "MaskReport",
    "SeedReport",
    "level",
    "load_maps",
    "make_record",
    "measure_boxes",
    "measure_classification",
    "measure_masks",
    "measure_seeds",
    "measure_segmentation",
    "percent",
    "seeds_of_folder",
    "seeds_of_model",
    "seen_by",
    "share",
    "worst",
    "write_plot",
    "write_record",
    "write_sheet",
]
