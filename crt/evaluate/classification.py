"""How well a model's logits rank the images of a data set, class by class; and logits of whole images."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from crt.cam import CAMExtractor
from crt.data import ImageDataset
from crt.evaluate.seeds import Progress, class_indices, silent
from crt.images import normalize, open_image
from crt.metrics import MultilabelAP

__all__ = ["eval_mode", "image_logits", "measure_classification", "resize_pixels"]


def measure_classification(extractor: CAMExtractor, data: ImageDataset, *, progress: Progress = silent) -> MultilabelAP:
    """Measures the mean average precision of a model's logits against the image-level labels.

    Args:
        extractor: of a model that knows the classes of ``data`` by name; its ``flip`` and ``max_side`` apply.
        data: images with labels.
        progress: wraps the images and their number, to show how far it is.

    Returns:
        The metric: ``compute()`` gives ``map``, and ``ap`` in the order of the data set's classes.

    Raises:
        ValueError: the model lacks a class.
        OSError: an image cannot be read.
    """
    index, count = class_indices(extractor, data.class_names), len(data.class_names)
    metric = MultilabelAP(count)
    for sample in progress(iter(data), len(data)):
        target = torch.zeros(1, count, dtype=torch.long)
        target[0, sample.labels] = 1
        metric.update(image_logits(extractor, open_image(sample.image))[None, index], target)
    return metric


@torch.no_grad()
def image_logits(extractor: CAMExtractor, image: Tensor) -> Tensor:
    """Logits of a whole image as the extractor sees it at scale 1, averaged with its mirror image's if it has ``flip``.

    Under autocast they are computed in its type; modes of the model and its submodules are left as they were.

    Args:
        extractor: its model, ``max_side`` and ``flip`` apply.
        image: (3, H, W) uint8.

    Returns:
        (K,) float32, on the CPU.
    """
    model: Any = extractor.model  # logits are asked for besides what CAMModel has
    shrink = min(1.0, (extractor.max_side or float("inf")) / max(image.shape[-2:]))
    if shrink < 1:
        size = (max(1, round(image.shape[-2] * shrink)), max(1, round(image.shape[-1] * shrink)))
        image = resize_pixels(image, size)
    photo = normalize(image.to(model.device), model.mean, model.std)
    with eval_mode(model):
        return model(torch.stack([photo, photo.flip(-1)] if extractor.flip else [photo])).float().mean(dim=0).cpu()


def resize_pixels(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes (3, H, W) uint8 to (3, *size), bilinear with antialiasing."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    resized = np.array(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return torch.from_numpy(resized).permute(2, 0, 1).to(image.device)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule has the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
