"""Masks without labels: the class maps of all classes, read as a segmentation.

A model whose maps are probabilities (``activation="softmax"``) lets every class compete with the background at each
pixel; the likeliest wins.  Of other models the classes are predicted first, and their maps cut at the model's
background score, as a seed is.
"""

import dataclasses
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from crt import viz
from crt.cam.extractor import CAMExtractor
from crt.cam.protocol import CAMModel
from crt.images import ImageLike, ImagesLike, to_tensors

__all__ = ["Segmentation", "Segmenter", "stack_masks"]

IGNORE_INDEX = 255


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """The mask of one photo.

    Attributes:
        mask: (H, W) uint8, or int32 beyond 254 classes; 0 = background, i + 1 = class i.
        class_names: names of the K classes, or None.
        pixels: (3, H, W) uint8, the photo.
    """

    mask: Tensor
    class_names: Sequence[str] | None
    pixels: Tensor

    @property
    def labels(self) -> list[int]:
        """Indices of the classes in the mask, rising."""
        return [int(value) - 1 for value in self.mask.unique() if value]

    @property
    def names(self) -> list[str]:
        """Their names (indices, for a model without names)."""
        return [str(i) if self.class_names is None else self.class_names[i] for i in self.labels]

    def panel(self, width: int = 1000) -> Image.Image:
        """The photo, and the photo under its mask with a legend, side by side."""
        maps = torch.zeros(0, *self.mask.shape)
        return viz.panel(self.pixels, maps, [], self.mask, self.class_names, legend=self.labels, width=width)

    def show(self) -> None:
        """Opens ``panel()`` in the viewer of the desktop."""
        self.panel().show()

    def _repr_png_(self) -> bytes:
        return viz.to_png(self.panel())


class Segmenter:
    """Masks of any number of photos, without labels.

    Args:
        model: a ``CRT``, or any module with the members of ``CAMModel``.
        refiner: refines the maps of the classes found, and of the background (``crt.create_refiner``), or None.
        threshold: background score, 0 to 1; None takes the model's.
        settings: those of ``CAMExtractor``: scales, flip, batch_size, max_side, stride, tile.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        model: CAMModel,
        *,
        refiner: nn.Module | None = None,
        threshold: float | None = None,
        **settings: Any,
    ) -> None:
        self.model, self.refiner, self.threshold = model, refiner, threshold
        self.extractor = CAMExtractor(model, **settings)

    def __call__(self, images: ImagesLike) -> list[Segmentation]:
        """Masks of one image, or of a batch or list of images; see ``CRT.cam`` for what an image may be."""
        return list(self.stream(to_tensors(images, device=self.model.device)))

    def stream(self, images: Iterable[ImageLike]) -> Generator[Segmentation, None, None]:
        """Masks of any number of images, one after another; only those in flight are held.

        Raises:
            TypeError, ValueError, OSError: an image that cannot be understood, after the results of all before it.
        """
        compete = self.model.activation == "softmax"
        everything = torch.ones(1, self.model.num_classes, dtype=torch.bool) if compete else None
        with closing(self.extractor.stream((image, everything) for image in images)) as results:
            for result in results:
                if compete:  # refine only what was found somewhere
                    result = result.keep([int(value) - 1 for value in result.mask(self.threshold).unique()])
                mask = result.refined(self.refiner).mask(self.threshold)
                yield Segmentation(mask, self.model.class_names, result.pixels)


def stack_masks(masks: Sequence[Tensor]) -> Tensor:
    """Masks of different sizes as (B, H, W): each in the top left corner, 255 around it."""
    height, width = (max(mask.shape[axis] for mask in masks) for axis in (-2, -1))
    stacked = masks[0].new_full((len(masks), height, width), IGNORE_INDEX)
    for place, mask in zip(stacked, masks, strict=True):
        place[: mask.shape[-2], : mask.shape[-1]] = mask
    return stacked
