"""The CAMs of one photo, and what is usually done with them."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from crt import viz
from crt._files import write_tensors
from crt.cam.functional import (
    against_background,
    check_finite,
    largest_box,
    mask_from_cam,
    normalize_cam,
    with_background,
)

__all__ = ["CAMResult"]


@dataclasses.dataclass(frozen=True, eq=False)
class CAMResult:
    """Class activation maps of one photo.

    Attributes:
        maps: (k, H, W) float32, in [0, 1] unless extracted with ``normalize=False``: one map for each of ``labels``.
        labels: k class indices from 0, rising.
        class_names: the model's class names, or None.
        seed_threshold: the model's background score, the default of ``mask`` and ``boxes``.
        pixels: (3, h, w) uint8, the photo.
        normalized: whether ``maps`` are; raw sums are normalized first where a threshold or a picture needs it.
        compete: maps are probabilities of classes against the background, see ``against_background``.
        scores: (K,) probabilities that the photo shows each of the model's classes, where they were computed: if the
            labels were predicted, or the model has a classifier beside its maps.
    """

    maps: Tensor
    labels: list[int]
    class_names: Sequence[str] | None
    seed_threshold: float
    pixels: Tensor
    normalized: bool = True
    compete: bool = False
    scores: Tensor | None = None

    @property
    def cam(self) -> Tensor:
        """``maps``, normalized: (k, H, W) in [0, 1]."""
        return self.maps if self.normalized else normalize_cam(self.maps)

    @property
    def names(self) -> list[str]:
        """Names of the k classes (their indices, for a model without names)."""
        return [str(i) if self.class_names is None else self.class_names[i] for i in self.labels]

    def mask(self, threshold: float | None = None) -> Tensor:
        """The seed: (H, W) integer mask, 0 = background, i + 1 = class i.

        Args:
            threshold: score of the background, 0 to 1; None takes the model's.
        """
        return mask_from_cam(self.cam, self.labels, self.seed_threshold if threshold is None else threshold)

    def refined(self, refiner: nn.Module | None) -> "CAMResult":
        """The same photo with refined maps, normalized again; without labels there is nothing to refine.

        Args:
            refiner: as ``crt.create_refiner`` makes it, ``refiner(image, cam) -> cam``, on the maps' device; None
                leaves the maps as they are.
        """
        if refiner is None or not self.labels:
            return self
        with torch.no_grad():
            if self.compete:  # the background is refined with the classes
                refined = refiner(self.pixels[None], with_background(self.cam)[None])[0].clamp(min=0)
                maps = against_background(refined[1:] / refined.sum(dim=0).clamp(min=1e-8))
            else:
                maps = normalize_cam(refiner(self.pixels[None], self.cam[None])[0])
        return dataclasses.replace(self, maps=maps, normalized=True)

    def keep(self, labels: Sequence[int]) -> "CAMResult":
        """The same photo with the maps of some of its classes only."""
        places = [place for place, label in enumerate(self.labels) if label in labels]
        return dataclasses.replace(self, maps=self.maps[places], labels=[self.labels[place] for place in places])

    def boxes(self, threshold: float | None = None) -> dict[str, tuple[int, int, int, int]]:
        """The box around each class's largest component, by name.

        Args:
            threshold: share of the map's range, from its lowest to its highest value, that belongs to the object, 0 to
                1; None takes the model's.  The rule of ``crt.metrics.Localization``.

        Returns:
            XYXY in pixels of the map; x1 and y1 are the first column and row behind the box.  A class whose map is
            the same everywhere has no box.

        Raises:
            ValueError: maps with NaN or infinite values.
        """
        share = self.seed_threshold if threshold is None else threshold
        pairs = zip(self.names, self.maps, strict=True)
        found = {name: largest_box(cam, share) for name, cam in pairs if check_finite(cam).max() > cam.min()}
        return {name: box for name, box in found.items() if box is not None}

    def overlay(self, alpha: float = 0.7) -> Image.Image:
        """The photo under its maps, one bright color a class, at its size; ``alpha`` (0 to 1) is their strength."""
        return viz.overlay(self.pixels, self.cam, self.labels, alpha=alpha)

    def panel(self, threshold: float | None = None, *, width: int = 1000) -> Image.Image:
        """Photo, one heat map a class, and the mask with its legend, side by side.

        Args:
            threshold: score of the background, 0 to 1; None takes the model's.
            width: of the picture, in pixels.
        """
        scores = None if self.scores is None else self.scores[self.labels].tolist()
        mask = self.mask(threshold)
        return viz.panel(self.pixels, self.cam, self.labels, mask, self.class_names, scores=scores, width=width)

    def show(self) -> None:
        """Opens ``panel()`` in the viewer of the desktop."""
        self.panel().show()

    def _repr_png_(self) -> bytes:
        return viz.to_png(self.panel())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the maps as safetensors: ``maps`` (k, H, W) float32, ``labels`` (k,) int64; class names as metadata.

        The file appears whole or not at all.

        Raises:
            OSError: it cannot be written.
            ValueError: maps with NaN or infinite values.
        """
        tensors = {"maps": check_finite(self.maps), "labels": torch.tensor(self.labels, dtype=torch.int64)}
        metadata = {"names": json.dumps(self.names), "seed_threshold": str(self.seed_threshold)}
        write_tensors(Path(path), tensors, metadata)
