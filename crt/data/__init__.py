"""Data sets, their class names, and masks as palette PNGs."""

from crt.data.dataset import ImageDataset
from crt.data.load import load_dataset
from crt.data.sample import Sample
from crt.data.voc import VOC_CLASSES
from crt.masks import load_mask, palette, save_mask

__all__ = [
    "VOC_CLASSES",
    "ImageDataset",
    "Sample",
    "load_dataset",
    "load_mask",
    "palette",
    "save_mask",
]
