"""Background thresholds for a data set without masks, from the maps of some of its photos."""

import torch
from torch import nn

from crt.cam import CAMExtractor
from crt.cam.thresholds import fit_thresholds
from crt.data import ImageDataset
from crt.images import open_image
from crt.jobs.job import Progress, working_side

__all__ = ["find_thresholds"]

COMPETING = (0.2, 0.5, 0.8)  # bounds of the scores; at 0.5 a class is as likely as the background
PIXELS = 1024  # of a photo


def find_thresholds(
    extractor: CAMExtractor,
    refiner: nn.Module | None,
    photos: ImageDataset,
    *,
    count: int = 200,
    progress: Progress = lambda items, total: items,
) -> tuple[float, float]:
    """(low, high) for ``make_pseudo_masks``, to two digits: below ``low`` background, above ``high`` object.

    A mixture is fitted to the highest score of the pixels of ``count`` photos (``crt.cam.thresholds.fit_thresholds``);
    no mask is read.  The same photos are taken each time: evenly spaced in the list.  Where classes compete (activation
    "softmax"), a score of 0.5 decides between background and class, so ``low`` is 0.2 to 0.5 and ``high`` 0.5 to 0.8,
    however close to 0 and 1 the mixture would set them.

    Raises:
        ValueError: none of these photos can be read.
    """
    labeled = [photo for photo in photos.samples if photo.labels]
    chosen = labeled[:: max(1, -(-len(labeled) // count))]
    side, scores = working_side(extractor.scales, extractor.max_side), []
    for photo in progress(chosen, len(chosen)):
        try:
            (result,) = extractor(open_image(photo.image, max_side=side), [photo.labels])
        except (OSError, MemoryError, ValueError):
            continue  # the job will say so
        highest = result.refined(refiner).cam.amax(dim=0).flatten().cpu()
        scores.append(highest[:: max(1, len(highest) // PIXELS)])
    if not scores:
        if not labeled:  # negatives alone: nothing will be cut
            return COMPETING[1], COMPETING[1]
        raise ValueError(f"thresholds need maps: none of {len(chosen)} photos can be read, such as {chosen[0].image}.")
    low, high = fit_thresholds(torch.cat(scores).clamp(0, 1))
    if extractor.model.activation == "softmax":
        least, middle, most = COMPETING
        low, high = min(max(low, least), middle), max(min(high, most), middle)
    return round(low, 2), round(high, 2)
