"""Background thresholds for a data set without masks, from the maps of some of its photos."""

import torch
from torch import nn

from crt.cam import CAMExtractor
from crt.cam.thresholds import fit_thresholds
from crt.data import ImageDataset
from crt.images import open_image
from crt.jobs.job import working_side

__all__ = ["find_thresholds"]

COMPETING = (0.4, 0.6)  # around 0.5, where a class is as likely as the background
PIXELS = 1024  # of a photo


def find_thresholds(
    extractor: CAMExtractor, refiner: nn.Module | None, photos: ImageDataset, *, count: int = 200
) -> tuple[float, float]:
    """(low, high) for ``make_pseudo_masks``, to two digits: below ``low`` background, above ``high`` object.

    Where classes compete (activation "softmax"), maps are probabilities against the background, and 0.4 and 0.6 are
    taken without a look at them.  Otherwise a mixture is fitted to the highest score of the pixels of ``count`` photos
    (``crt.cam.thresholds.fit_thresholds``).  The same photos are taken each time: evenly spaced in the list.

    Raises:
        ValueError: none of these photos can be read.
    """
    if extractor.model.activation == "softmax":
        return COMPETING
    labelled = [photo for photo in photos.samples if photo.labels]
    chosen = labelled[:: max(1, -(-len(labelled) // count))]
    side, scores = working_side(extractor.scales, extractor.max_side), []
    for photo in chosen:
        try:
            (result,) = extractor(open_image(photo.image, max_side=side), [photo.labels])
        except (OSError, MemoryError, ValueError):
            continue  # the job will say so
        highest = result.refined(refiner).cam.amax(dim=0).flatten().cpu()
        scores.append(highest[:: max(1, len(highest) // PIXELS)])
    if not scores:
        if not labelled:  # negatives alone: nothing will be cut
            return COMPETING
        raise ValueError(f"thresholds need maps: none of {len(chosen)} photos can be read, such as {chosen[0].image}.")
    low, high = fit_thresholds(torch.cat(scores).clamp(0, 1))
    return round(low, 2), round(high, 2)
