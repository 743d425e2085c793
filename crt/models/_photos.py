"""Photos and labels as people have them, for a model with its own normalisation and classes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crt.models._inputs import as_multi_hot, as_photos

__all__ = ["PhotoMixin", "three_values"]


class PhotoMixin:
    """What a model needs to take photos and labels of any kind (the input half of ``crt.cam.CAMModel``)."""

    num_classes: int
    class_names: Sequence[str] | None
    _mean: list[float]
    _std: list[float]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """(3, 1, 1) float32 on the model's device, whatever its dtype: the mean of pixel values in [0, 1]."""
        return torch.tensor(self._mean, device=self.device).view(3, 1, 1)

    @property
    def std(self) -> Tensor:
        """(3, 1, 1) float32 on the model's device, whatever its dtype: the deviation of pixel values in [0, 1]."""
        return torch.tensor(self._std, device=self.device).view(3, 1, 1)

    def photos(self, images: Any) -> list[Tensor]:
        """One image or several, in any form that ``cam`` takes -> (3, H, W) each, uint8 or normalised floats."""
        return as_photos(images, self.device)

    def normalised(self, photo: Tensor) -> Tensor:
        """(3, H, W) uint8 -> normalised floats; these are returned as they are."""
        if photo.dtype != torch.uint8:
            return photo
        return (photo.float() / 255 - self.mean.to(photo.device)) / self.std.to(photo.device)

    def pixels(self, photo: Tensor) -> Tensor:
        """The inverse of ``normalised``: floats -> uint8; this is returned as it is."""
        if photo.dtype == torch.uint8:
            return photo
        values = (photo * self.std.to(photo.device) + self.mean.to(photo.device)) * 255
        return values.round().clamp(0, 255).to(torch.uint8)

    def multi_hot(self, labels: Any, count: int) -> Tensor | None:
        """Labels of ``count`` images in any form that ``cam`` takes -> (count, K) bool; None stays None."""
        return as_multi_hot(labels, count, self.num_classes, self.class_names)


def three_values(values: Sequence[float], name: str) -> list[float]:
    if len(values) != 3:
        raise ValueError(f"{name} needs three values, one a channel; got {list(values)}.")
    return [float(value) for value in values]
