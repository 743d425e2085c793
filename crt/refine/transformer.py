"""What the refiners by a vision transformer share: the photo as the model sees it, its tiles, and the way back."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from crt.cam.functional import snapped_size
from crt.cam.protocol import TransformerModel
from crt.cam.views import View, choose_tiling, view_of
from crt.images import resize, shrink_factor, to_unit
from crt.refine.inputs import check_pair, resized

__all__ = ["TILES", "TransformerRefiner"]

TILES = 16  # computed at once


class TransformerRefiner(nn.Module):
    """Refines maps on the grid of a transformer's patches; a subclass says how, in ``refine_patches``.

    Args:
        model: the transformer.  It is used, not owned: moving the refiner or changing its mode leaves the model alone.
        max_side: photos with a longer side are seen as if reduced to it (in pixels), at least 1; None sees them as they
            are.
    """

    def __init__(self, model: TransformerModel, max_side: int | None) -> None:
        super().__init__()
        self._used = (model,)  # a tuple, so that torch does not take the model for a part of this module
        self.max_side = max_side

    @property
    def model(self) -> TransformerModel:
        """The transformer."""
        return self._used[0]

    @torch.no_grad()
    def forward(self, image: Tensor, cam: Tensor) -> Tensor:
        """Refined maps.

        Args:
            image: (B, 3, H, W), uint8 in [0, 255] or floating point in [0, 1].
            cam: (B, k, h, w), floating point in [0, 1]; of any size.

        Returns:
            Like ``cam``; weighted means of its values.

        Raises:
            ValueError, TypeError: other shapes or dtypes.
        """
        check_pair(image, cam)
        model, (height, width) = self.model, image.shape[-2:]
        size = snapped_size(height, width, shrink_factor(height, width, self.max_side), model.patch)
        grid = (size[0] // model.patch, size[1] // model.patch)
        seen = (to_unit(image).to(model.device) - model.mean) / model.std
        refined = [
            self.refine_patches(resize(photo, size, antialias=True), resize(maps, grid, antialias=True))
            for photo, maps in zip(seen, cam.to(seen), strict=True)
        ]
        return resized(torch.stack(refined), cam.shape[-2:]).to(cam)

    @abstractmethod
    def refine_patches(self, photo: Tensor, maps: Tensor) -> Tensor:
        """A normalized photo of whole patches, (3, H, W), and maps (k, H / patch, W / patch) -> refined maps."""

    def view(self, photo: Tensor) -> View:
        """The photo as the model sees photos by default: whole, or in overlapping tiles."""
        size = (photo.shape[-2], photo.shape[-1])
        return view_of(size, choose_tiling(self.model, None, None), mirrored=False)
