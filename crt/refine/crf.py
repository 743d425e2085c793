"""The fully connected CRF over pixels, from maps (``DenseCRF``) or from labels (``crf_labels``), by pydensecrf.

Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NeurIPS 2011.  The
parameters are those with which IRN (Ahn et al., CVPR 2019) cleans its confident labels.  Runs on the CPU, without
gradient; the extra ``crf`` brings pydensecrf.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crt.images import to_unit
from crt.refine.inputs import check_pair, resized

__all__ = ["CRFSettings", "DenseCRF", "crf_labels"]


@dataclass(frozen=True)
class CRFSettings:
    """The pairwise terms and the number of mean-field iterations.

    Attributes:
        iterations: not negative; 0 gives the scores that go in.
        gaussian_sxy: reach of the smoothness term, in pixels; ``gaussian_compat``: its weight.
        bilateral_sxy, bilateral_srgb: reach of the appearance term, in pixels and in gray levels of 255;
            ``bilateral_compat``: its weight.
    """

    iterations: int = 10
    gaussian_sxy: float = 3
    gaussian_compat: float = 3
    bilateral_sxy: float = 50
    bilateral_srgb: float = 5
    bilateral_compat: float = 10


class DenseCRF(nn.Module):
    """A dense CRF as a refiner: the posterior of each class after mean-field inference, at the size of the image.

    The classes compete with a background of a constant score: at a pixel, class c has the probability
    cam[c] / (background + sum of cam) before inference.  A map that is zero everywhere takes no part and stays zero.
    What comes out is a probability, next to which the background has 1 - (sum over the classes): the class of a pixel
    is the largest of them all, and no more a matter of the threshold that was ``background`` before.

    Args:
        background: score of the background beside maps in [0, 1], above 0.
        settings: of the CRF.

    Raises:
        ImportError: pydensecrf is not installed.
        ValueError: a background that is not above 0.
    """

    def __init__(self, *, background: float = 0.25, settings: CRFSettings | None = None) -> None:
        super().__init__()
        if not background > 0:
            raise ValueError(f"background must be above 0, got {background}.")
        _pydensecrf()
        self.background, self.settings = background, settings or CRFSettings()

    @torch.no_grad()
    def forward(self, image: Tensor, cam: Tensor) -> Tensor:
        """Refines each image's maps.

        Args:
            image: (B, 3, H, W), uint8 in [0, 255] or floating point in [0, 1].
            cam: (B, k, h, w), floating point in [0, 1]; of any size, resized to that of the image and back.

        Returns:
            (B, k, h, w) in [0, 1], the dtype and device of ``cam``.
        """
        check_pair(image, cam)
        photos = _bytes(image)
        scores = resized(cam.float(), image.shape[-2:]).cpu()
        refined = torch.zeros_like(scores)
        for photo, maps, out in zip(photos, scores, refined, strict=True):
            present = maps.flatten(1).any(dim=1).nonzero().flatten()
            if len(present):
                maps = torch.cat([torch.full_like(maps[:1], self.background), maps[present]])
                energy = -(maps / maps.sum(dim=0)).clamp(min=1e-5).log()
                out[present] = _mean_field(photo, energy, self.settings)[1:]
        return resized(refined, cam.shape[-2:]).to(cam)

    def extra_repr(self) -> str:
        return f"background={self.background}, settings={self.settings}"


def crf_labels(
    image: Tensor, labels: Tensor, num_labels: int, *, gt_prob: float = 0.7, settings: CRFSettings | None = None
) -> Tensor:
    """Cleans a label image, in which each label is right with probability ``gt_prob``; the others share the rest.

    Args:
        image: (3, H, W), uint8 in [0, 255] or floating point in [0, 1].
        labels: (H, W), integers from 0 to ``num_labels`` - 1.
        num_labels: number of labels, with the background; the fewer, the heavier weighs a wrong one.
        gt_prob: between 0 and 1.
        settings: of the CRF.

    Returns:
        (H, W) labels, the dtype and device of ``labels``.

    Raises:
        ImportError: pydensecrf is not installed.
        ValueError: shapes that do not fit each other, or labels out of their range.
    """
    if labels.is_floating_point() or tuple(image.shape) != (3, *labels.shape) or labels.ndim != 2:
        raise ValueError(
            "expected an image of shape (3, H, W) and integer labels of shape (H, W), got "
            f"{tuple(image.shape)} and {labels.dtype} {tuple(labels.shape)}."
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_labels:
        raise ValueError(
            f"labels must be 0 to {num_labels - 1} for {num_labels} labels, got {int(labels.min())} to "
            f"{int(labels.max())}."
        )
    check_pair(image[None], torch.empty(1, 0, 1, 1))
    if not 0 < gt_prob < 1:
        raise ValueError(f"gt_prob must be between 0 and 1, got {gt_prob}.")
    _pydensecrf()
    if num_labels == 1:
        return labels.clone()
    own = torch.arange(num_labels)[:, None, None] == labels.cpu()
    energy = torch.where(own, -math.log(gt_prob), -math.log((1 - gt_prob) / (num_labels - 1)))
    return _mean_field(_bytes(image[None])[0], energy, settings or CRFSettings()).argmax(dim=0).to(labels)


def _pydensecrf() -> Any:
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise ImportError("the dense CRF needs pydensecrf: pip install 'crt-wsss[crf]'.") from error
    return densecrf


def _bytes(image: Tensor) -> Tensor:
    """(B, 3, H, W), uint8 or in [0, 1], to (B, H, W, 3) uint8 on the CPU."""
    return (to_unit(image) * 255).round().clamp(0, 255).byte().movedim(1, -1).cpu()


def _mean_field(photo: Tensor, energy: Tensor, settings: CRFSettings) -> Tensor:
    """Marginals (n, H, W) of n labels from their unary energies (n, H, W) on a photo (H, W, 3) uint8."""
    n, h, w = energy.shape
    crf = _pydensecrf().DenseCRF2D(w, h, n)
    crf.setUnaryEnergy(np.ascontiguousarray(energy.float().flatten(1).numpy()))
    crf.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        rgbim=np.ascontiguousarray(photo.numpy()),
        compat=settings.bilateral_compat,
    )
    return torch.from_numpy(np.array(crf.inference(settings.iterations), dtype=np.float32)).view(n, h, w).clamp(0, 1)
