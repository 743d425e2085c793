"""Training crops: a sample depends on (seed, epoch, index) alone, so a resumed run sees what the other would have."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from crt.data import ImageDataset
from crt.images import open_image
from crt.masks import load_mask
from crt.train.recipe import Recipe

__all__ = ["Crops", "Key", "batch_plan", "mix_seed", "read_mask"]

Key = tuple[int, int]


def mix_seed(*parts: str | int) -> int:
    """A seed of 63 bits from several parts: a hash, so that neighbouring seeds or epochs share no random numbers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def batch_plan(count: int, batch_size: int, epochs: int, seed: int) -> list[list[Key]]:
    """All batches of a run as (epoch, index) pairs; photos that do not fill an epoch's last batch are left out.

    Raises:
        ValueError: fewer photos than a batch.
    """
    if count < batch_size:
        raise ValueError(f"{count} photos do not fill a batch of {batch_size}; use a smaller batch size.")
    plan = []
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(mix_seed("order", seed, epoch))
        order = torch.randperm(count, generator=generator).tolist()
        plan += [[(epoch, i) for i in order[k : k + batch_size]] for k in range(0, count - batch_size + 1, batch_size)]
    return plan


class Crops(Dataset[tuple[Tensor, ...]]):
    """Random crops with multi-hot labels, and with the same crops of the masks of photos that have one.

    Args:
        photos: the data set.
        recipe: size and kind of the crops.
        mean, std: normalization, three values each.
        seed: of the run.
    """

    def __init__(
        self,
        photos: ImageDataset,
        recipe: Recipe,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ) -> None:
        self.photos, self.seed = photos, seed
        jitter = [v2.ColorJitter(*[recipe.jitter] * 3)] if recipe.jitter else []
        normalize = [*jitter, v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
        if recipe.area is not None:
            view = [v2.RandomResizedCrop(recipe.crop, scale=recipe.area, antialias=True), *normalize]
        else:  # padded after normalization: zero is the mean colour
            view = [_LongSide(*recipe.long_side), *normalize, _padded_crop(recipe.crop)]
        self.transform = v2.Compose([*view, v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: Key) -> tuple[Tensor, ...]:
        """(3, crop, crop) normalized floats, (K,) multi-hot and, where there are masks, (crop, crop) uint8.

        Raises:
            OSError: the photo or its mask cannot be decoded; the message names it.
        """
        epoch, index = key
        photo = self.photos[index]
        image = open_image(photo.image)
        parts = [tv_tensors.Image(image)]
        if photo.mask is not None:
            mask = read_mask(photo.mask, len(self.photos.class_names), (image.shape[-2], image.shape[-1]))
            parts.append(tv_tensors.Mask(mask[None]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix_seed("crop", self.seed, epoch, index))
            crop, *masks = self.transform(*parts) if len(parts) > 1 else [self.transform(*parts)]
        target = torch.zeros(len(self.photos.class_names))
        target[photo.labels] = 1
        return crop.as_subclass(Tensor), target, *(part[0].as_subclass(Tensor) for part in masks)


def read_mask(path: Path, num_classes: int, size: tuple[int, int] | None = None) -> Tensor:
    """A mask: (H, W) uint8, values 0 to ``num_classes`` and 255.

    Raises:
        OSError: it cannot be read, has other values, or not the ``size`` of its image; the message names it.
    """
    try:
        mask = torch.from_numpy(load_mask(path))
    except (OSError, ValueError) as error:
        raise OSError(str(error)) from error
    if mask.dtype != torch.uint8 or (size is not None and tuple(mask.shape) != size):
        raise OSError(f"{path} is {mask.dtype} {tuple(mask.shape)}, its image {size or 'uint8'}.")
    if ((mask > num_classes) & (mask < 255)).any():
        raise OSError(f"{path} has values beyond {num_classes}, the number of classes, that are not 255.")
    return mask


def _padded_crop(side: int) -> v2.Transform:
    return v2.RandomCrop(side, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: 255, "others": 0})


class _LongSide(v2.Transform):
    """Brings the long side to a random length (paper section 4.1)."""

    def __init__(self, smallest: int, largest: int) -> None:
        super().__init__()
        self.range = (smallest, largest)

    def forward(self, *parts: Tensor) -> Any:
        side = int(torch.randint(self.range[0], self.range[1] + 1, ()))
        scale = side / max(parts[0].shape[-2:])
        size = [max(1, round(length * scale)) for length in parts[0].shape[-2:]]
        resized = tuple(v2.functional.resize(part, size, antialias=True) for part in parts)
        return resized if len(resized) > 1 else resized[0]
