"""Training photos: a sample depends on (seed, epoch, index) alone, so a resumed run sees what the other would have."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from crt.data import LabelledPhotos
from crt.models._inputs import as_photos
from crt.train.recipe import CAMRecipe

__all__ = ["Crops", "batch_plan"]

Key = tuple[int, int]


def batch_plan(count: int, batch_size: int, epochs: int, seed: int) -> list[list[Key]]:
    """All batches of a run as (epoch, index) pairs; photos that do not fill an epoch's last batch are left out.

    Raises:
        ValueError: fewer photos than a batch.
    """
    if count < batch_size:
        raise ValueError(f"{count} photos do not fill a batch of {batch_size}; use a smaller batch size.")
    plan = []
    for epoch in range(epochs):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        plan += [[(epoch, i) for i in order[k : k + batch_size]] for k in range(0, count - batch_size + 1, batch_size)]
    return plan


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Random crops with multi-hot labels, by (epoch, index).

    Args:
        photos: the data set.
        recipe: size and kind of the crops.
        mean, std: normalisation, three values each.
        seed: of the run.
    """

    def __init__(
        self, photos: LabelledPhotos, recipe: CAMRecipe, mean: Sequence[float], std: Sequence[float], seed: int
    ) -> None:
        self.photos, self.seed = photos, seed
        normalise = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
        if recipe.area is not None:
            view = [v2.RandomResizedCrop(recipe.crop, scale=recipe.area, antialias=True), *normalise]
        else:  # padded after normalisation: zero is the mean colour
            view = [_LongSide(*recipe.long_side), *normalise, v2.RandomCrop(recipe.crop, pad_if_needed=True)]
        self.transform = v2.Compose([*view, v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        """(3, crop, crop) normalised floats and (K,) multi-hot.

        Raises:
            OSError: the photo cannot be decoded; the message names it.
        """
        epoch, index = key
        photo = self.photos[index]
        try:
            (image,) = as_photos(Image.open(photo.image), torch.device("cpu"))  # as in inference: EXIF, 16 bits, alpha
        except (OSError, ValueError) as error:
            raise OSError(f"{photo.image} cannot be read as a photo: {error}") from error
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.seed * 1000 + epoch) * 1_000_003 + index)
            crop = self.transform(image)
        target = torch.zeros(len(self.photos.class_names))
        target[photo.labels] = 1
        return crop, target


class _LongSide(v2.Transform):
    """Brings the long side to a random length (paper section 4.1)."""

    def __init__(self, smallest: int, largest: int) -> None:
        super().__init__()
        self.range = (smallest, largest)

    def forward(self, image: Tensor) -> Tensor:
        side = int(torch.randint(self.range[0], self.range[1] + 1, ()))
        scale = side / max(image.shape[-2:])
        size = [max(1, round(length * scale)) for length in image.shape[-2:]]
        return v2.functional.resize(image, size, antialias=True)
