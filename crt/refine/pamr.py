"""PAMR, pixel-adaptive mask refinement (Araslanov & Roth, CVPR 2020, section 3.3): local smoothing that stops at edges.

Each pixel takes the mean of its neighbors' scores, the more of a neighbor's the closer their colors are, measured
by how much colors differ around there; repeated, this moves a map's border to the nearest edge of the photo.

Departure: it works on a reduced photo (``max_side``), where the neighbors' distances are the same share of any photo
and the cost has a bound.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crt.images import to_unit
from crt.refine.inputs import check_pair, reduced_size, resized

__all__ = ["PAMR"]


class PAMR(nn.Module):
    """Refines maps by the photo's colors; it has no parameters and runs under autograd.

    Args:
        iterations: rounds of smoothing, at least 1.
        dilations: distances of the eight neighbors looked at in each direction, in pixels of the reduced photo.
        bandwidth: the smaller, the sharper edges stop the smoothing; a factor on the local deviation of the colors.
        max_side: photo and maps are reduced to at most this many pixels on the long side; None keeps their size.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        iterations: int = 10,
        dilations: Sequence[int] = (1, 2, 4, 8, 12, 24),
        *,
        bandwidth: float = 0.1,
        max_side: int | None = 256,
    ) -> None:
        super().__init__()
        if (
            iterations < 1
            or not dilations
            or min(dilations) < 1
            or bandwidth <= 0
            or (1 if max_side is None else max_side) < 1
        ):
            raise ValueError(
                "iterations, dilations, bandwidth and max_side must be positive; got "
                f"{iterations}, {tuple(dilations)}, {bandwidth} and {max_side}."
            )
        self.iterations, self.dilations = iterations, tuple(dilations)
        self.bandwidth, self.max_side = bandwidth, max_side

    def forward(self, image: Tensor, cam: Tensor) -> Tensor:
        """Refined maps.

        Args:
            image: (B, 3, H, W) uint8, or floating point in [0, 1].
            cam: (B, k, h, w) floating point in [0, 1].

        Returns:
            Like ``cam``, in [0, 1].

        Raises:
            ValueError, TypeError: other shapes or dtypes.
        """
        check_pair(image, cam)
        if cam.shape[1] == 0:
            return cam
        size = reduced_size(image, self.max_side)
        weights = self._weights(resized(to_unit(image), size, antialias=True))
        scores = resized(cam.float(), size, antialias=True)
        for _ in range(self.iterations):
            shifted = _neighbors(scores, self.dilations)
            scores = sum(w * s for w, s in zip(weights.unbind(dim=1), shifted, strict=True))  # type: ignore[assignment]
        return resized(scores, cam.shape[-2:], antialias=True).to(cam.dtype)

    def _weights(self, image: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, n, 1, h, w), the share of each of the n neighbors; they sum to one."""
        around = torch.stack(list(_neighbors(image, self.dilations)), dim=1)
        deviation = torch.cat([around, image[:, None]], dim=1).std(dim=1, keepdim=True)
        distance = (around - image[:, None]).abs() / (self.bandwidth * deviation + 1e-8)
        return torch.softmax(-distance.mean(dim=2, keepdim=True), dim=1)


def _neighbors(x: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """(B, C, h, w) -> views of that shape, one a neighbor; beyond the border the border is repeated."""
    edge, (height, width) = max(dilations), x.shape[-2:]
    padded = F.pad(x, (edge,) * 4, mode="replicate")
    for d in dilations:
        for dy in (-d, 0, d):
            for dx in (-d, 0, d):
                if dy or dx:
                    yield padded[..., edge + dy : edge + dy + height, edge + dx : edge + dx + width]
