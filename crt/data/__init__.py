"""Data sets, their class names, and masks as palette PNGs."""

from crt.data.dataset import ImageDataset
from crt.data.load import load_dataset
from crt.data.sample import Sample
from crt.data.voc import VOC_CLASSES

__all__ = ["VOC_CLASSES", "ImageDataset", "Sample", "load_dataset"]
