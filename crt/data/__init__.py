"""Data sets, their class names, and masks as palette PNGs."""

from crt.data.cub import CUBLocalisation, CUBPhoto
from crt.data.labelled import LabelledPhoto, LabelledPhotos
from crt.data.masks import load_mask, palette, save_mask
from crt.data.voc import VOC_CLASSES, VOCSegmentation

__all__ = [
    "VOC_CLASSES",
    "CUBLocalisation",
    "CUBPhoto",
    "LabelledPhoto",
    "LabelledPhotos",
    "VOCSegmentation",
    "load_mask",
    "palette",
    "save_mask",
]
