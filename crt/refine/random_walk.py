"""The random walk of IRN: each cell's score becomes a mean of the scores around it, taken along paths without boundary.

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019, section 4.5.
The reference builds the transition matrix T densely (N x N for N cells) and squares it eight times.  Here T stays
sparse and is applied to the map: the cells are grouped into square tiles, so wide that a cell's neighbors lie in its
own tile or the eight around it; then each step is one batched product of (k, 9 * tile) scores with a (9 * tile, tile)
block of T, for all tiles of all images.  The blocks hold T - 1: a step adds small changes to the scores, which keeps
the rounding of 256 steps in float32 near 1e-5 where the plain product loses 1e-4.

T is similar to the symmetric D^-1/2 A D^-1/2 (A the affinity, D its column sums), whose eigenvalues lie in [-1, 1].
There T^n is a sum of Chebyshev polynomials with binomial coefficients that fall off beyond degree sqrt(n), which saves
three fifths of 256 steps (Sachdeva & Vishnoi, "Faster Algorithms via Approximation Theory", 2013, section 3).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from crt.cam.paths import displacements, path_affinity
from crt.images import to_unit
from crt.refine.inputs import check_pair, reduced_size, resized

__all__ = ["RandomWalk", "chebyshev_coefficients", "random_walk"]


def random_walk(
    cam: Tensor,
    boundary: Tensor,
    *,
    radius: int = 5,
    beta: float = 10,
    steps: int = 256,
    tolerance: float | None = None,
) -> Tensor:
    """cam * (1 - boundary) times T^steps, where T is affinity^beta with a diagonal of ones and columns that sum to one.

    Computed in float32, also under autocast and for half-precision maps; in float64 if one of the maps is.

    Args:
        cam: (B, k, h, w), floating point.
        boundary: (B, 1, h, w), floating point in [0, 1].
        radius: reach of a step, in cells, at least 2; see ``crt.cam.paths.displacements``.
        beta: power of the affinity, above 0.
        steps: number of steps, not negative.
        tolerance: None takes every step.  A number in (0, 1) bounds the error of every value by tolerance * the
            largest value of cam * (1 - boundary), apart from rounding, with about 95 products for 256 steps at 1e-6.
            The rounding of float32 is near 1e-5 of the result, so that a smaller tolerance is for float64.

    Returns:
        (B, k, h, w), the dtype and device of ``cam``.  Each value is a weighted mean of those of cam * (1 - boundary).

    Raises:
        ValueError: shapes that do not fit each other, or an argument out of its range.

    >>> cam = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
    >>> random_walk(cam, torch.zeros(1, 1, 1, 4))
    tensor([[[[0.2500, 0.2500, 0.2500, 0.2500]]]])
    >>> random_walk(cam, torch.tensor([[[[0.0, 0.0, 1.0, 0.0]]]]))
    tensor([[[[0.5000, 0.5000, 0.0000, 0.0000]]]])
    """
    _check(cam, boundary, beta, steps, tolerance)
    b, k, h, w = cam.shape
    dtype = torch.promote_types(torch.promote_types(cam.dtype, boundary.dtype), torch.float32)
    with torch.autocast(cam.device.type, enabled=False):
        boundary, start = boundary.to(dtype), cam.to(dtype)
        side = max(radius - 1, 4)
        i, j = math.ceil(h / side), math.ceil(w / side)
        changes = _changes(path_affinity(boundary, radius) ** beta, radius, side)
        start = F.pad(start * (1 - boundary), (0, -w % side, 0, -h % side))
        tiles = rearrange(start, "b k (i y) (j x) -> (b i j k) (y x)", y=side, x=side)
        change = partial(_change, changes=changes, around=_around(b, k, i, j, cam.device))
        if tolerance is None:
            for _ in range(steps):
                tiles = tiles + change(tiles)
        else:
            # The polynomial's error bounds that of the map in the norm which weighs a cell by its column sum of A, from
            # 1 to the number of neighbors; hence the root of all weights, to bound it at every cell.
            weights = (2 * len(displacements(radius)) + 1) * h * w
            tiles = _chebyshev(tiles, change, chebyshev_coefficients(steps, tolerance / math.sqrt(weights)))
        walked = rearrange(tiles, "(b i j k) (y x) -> b k (i y) (j x)", b=b, i=i, j=j, k=k, y=side, x=side)
    return walked[..., :h, :w].to(cam.dtype)


def chebyshev_coefficients(steps: int, tolerance: float) -> list[float]:
    """Coefficients c of x^steps = sum of c[d] T_d(x) up to the least degree beyond which they sum up to ``tolerance``.

    c[d] is the probability that ``steps`` tosses of a fair coin differ by d, in either direction.  Integers are exact
    up to the last division.

    >>> chebyshev_coefficients(2, 1e-6)
    [0.5, 0.0, 0.5]
    """
    coefficients, dropped = [0.0] * (steps + 1), 0.0
    for degree in range(steps % 2, steps + 1, 2):
        ways = math.comb(steps, (steps - degree) // 2) * (2 if degree else 1)
        coefficients[degree] = ways / 2**steps
    while dropped + coefficients[-1] <= tolerance:
        dropped += coefficients.pop()
    return coefficients


class RandomWalk(nn.Module):
    """``random_walk`` as a refiner, over a network that finds boundaries.

    Args:
        boundary: a module or function from images (B, 3, H, W), float32 in [0, 1], to boundaries (B, 1, h, w) in
            [0, 1]; its grid is the one that the walk takes place on.
        radius, beta, steps, tolerance: as for ``random_walk``.
        max_side: photos with a longer side are reduced to it (in pixels) before their boundaries are looked for; None
            keeps their size.
    """

    def __init__(
        self,
        boundary: Callable[[Tensor], Tensor],
        *,
        radius: int = 5,
        beta: float = 10,
        steps: int = 256,
        tolerance: float | None = None,
        max_side: int | None = None,
    ) -> None:
        super().__init__()
        if max_side is not None and max_side < 1:
            raise ValueError(f"max_side must be at least 1 pixel, or None; got {max_side}.")
        self.boundary, self.max_side = boundary, max_side
        self.radius, self.beta, self.steps, self.tolerance = radius, beta, steps, tolerance

    def forward(self, image: Tensor, cam: Tensor) -> Tensor:
        """Resizes the CAM to the grid of the boundary, walks and resizes back, bilinearly.

        Args:
            image: (B, 3, H, W), uint8 in [0, 255] or floating point in [0, 1].
            cam: (B, k, h, w), floating point in [0, 1]; of any size.

        Returns:
            (B, k, h, w) in [0, 1], the dtype and device of ``cam``.  The walk flattens peaks; nothing is normalized.
        """
        check_pair(image, cam)
        seen, size = to_unit(image), reduced_size(image, self.max_side)
        if size != tuple(seen.shape[-2:]):
            seen = resized(seen, size, antialias=True).clamp(0, 1)
        boundary = self.boundary(seen)
        walked = random_walk(
            resized(cam, boundary.shape[-2:]),
            boundary,
            radius=self.radius,
            beta=self.beta,
            steps=self.steps,
            tolerance=self.tolerance,
        )
        # Dropped Chebyshev terms may leave a value below zero, by less than the tolerance.
        return resized(walked, cam.shape[-2:]).clamp(min=0)

    def extra_repr(self) -> str:
        settings = ("radius", "beta", "steps", "tolerance", "max_side")
        return ", ".join(f"{name}={getattr(self, name)}" for name in settings)


def _check(cam: Tensor, boundary: Tensor, beta: float, steps: int, tolerance: float | None) -> None:
    if cam.ndim != 4 or not cam.is_floating_point():
        raise ValueError(f"expected a floating-point cam of shape (B, k, h, w), got {cam.dtype} {tuple(cam.shape)}.")
    wanted = (len(cam), 1, *cam.shape[-2:])
    if tuple(boundary.shape) != wanted or not boundary.is_floating_point():
        raise ValueError(
            f"expected a floating-point boundary of shape {wanted} beside a cam of {tuple(cam.shape)}, got "
            f"{boundary.dtype} {tuple(boundary.shape)}."
        )
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}.")
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}.")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be None or between 0 and 1, got {tolerance}.")


def _changes(affinity: Tensor, radius: int, side: int) -> Tensor:
    """The blocks of T - 1, (B * tiles, 9 * side^2, side^2), from the affinities (B, P, h, w) with half the neighbors.

    A block's rows are the cells of the 3 x 3 tiles around, its columns the cells of the tile in the middle.
    """
    (h, w), half, reach = affinity.shape[-2:], displacements(radius), radius - 1
    # The affinity with the cell at -d is that of the cell at -d with its neighbor at d.
    padded = F.pad(affinity, (reach, reach, reach, 0))
    back = [padded[:, p, reach - dy : reach - dy + h, reach - dx : reach - dx + w] for p, (dy, dx) in enumerate(half)]
    planes = torch.cat([affinity, torch.stack(back, dim=1)], dim=1)
    others = planes.sum(dim=1, keepdim=True)
    planes = torch.cat([planes, -others], dim=1) / (1 + others)
    # Whole tiles, and one more plane of zeros for cells of the nine tiles that are out of reach.
    planes = F.pad(planes, (0, -w % side, 0, -h % side, 0, 1))
    planes = rearrange(planes, "b p (i y) (j x) -> (b i j) (p y x)", y=side, x=side)
    numbers = _plane_numbers([*half, *((-dy, -dx) for dy, dx in half), (0, 0)], side)
    places = (numbers * side**2 + torch.arange(side**2)).flatten().to(affinity.device)
    return planes.index_select(1, places).view(len(planes), *numbers.shape)


def _plane_numbers(neighbors: list[tuple[int, int]], side: int) -> Tensor:
    """(9 * side^2, side^2): which of ``neighbors`` a cell of the 3 x 3 tiles is to one in the middle, or how many."""
    table = torch.full((4 * side - 1, 4 * side - 1), len(neighbors))
    for number, (dy, dx) in enumerate(neighbors):
        table[dy + 2 * side - 1, dx + 2 * side - 1] = number
    # One axis: from the place in the middle tile to that in the tile before, the same and the one after.
    away = (torch.arange(3 * side)[:, None] - side - torch.arange(side)).view(3, side, side) + 2 * side - 1
    rows = rearrange(away, "u c a -> u 1 c 1 a 1")
    columns = rearrange(away, "v d e -> 1 v 1 d 1 e")
    return rearrange(table[rows, columns], "u v c d a e -> (u v c d) (a e)")


def _around(b: int, k: int, i: int, j: int, device: torch.device) -> Tensor:
    """Flat indices (b * i * j * k * 9) of the 3 x 3 tiles around each tile; beyond the grid any tile, as T is zero."""
    tiles = torch.arange(b * i * j, device=device).view(b, 1, i, j)
    rows, columns = ((torch.arange(n, device=device)[:, None] + torch.arange(-1, 2, device=device)) for n in (i, j))
    near = tiles[:, 0, rows.clamp(0, i - 1)][..., columns.clamp(0, j - 1)]
    near = rearrange(near, "b i u j v -> (b i j) 1 (u v)")
    return (near * k + torch.arange(k, device=device)[:, None]).flatten()


def _change(tiles: Tensor, changes: Tensor, around: Tensor) -> Tensor:
    """tiles (b * i * j * k, side^2) times T - 1."""
    blocks = tiles.index_select(0, around).view(len(changes), -1, changes.shape[1])
    return (blocks @ changes).view_as(tiles)


def _chebyshev(tiles: Tensor, change: Callable[[Tensor], Tensor], coefficients: list[float]) -> Tensor:
    """The sum of coefficients[d] * T_d(T) applied to tiles.

    T_d+1(x) = 2 x T_d(x) - T_d-1(x), written as differences of neighboring degrees (Reinsch), which are small.
    """
    total, difference = coefficients[0] * tiles, torch.zeros_like(tiles)
    for degree, coefficient in enumerate(coefficients[1:], start=1):
        difference = torch.add(difference, change(tiles), alpha=1 if degree == 1 else 2)
        tiles = tiles + difference
        if coefficient:
            total = torch.add(total, tiles, alpha=coefficient)
    return total
