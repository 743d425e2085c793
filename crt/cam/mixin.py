"""What every model that offers ``CAMModel`` can do with photos."""

from typing import Any, cast

from torch import Tensor, nn

from crt.cam.extractor import CAMModel
from crt.cam.segment import Segmenter, stack_masks
from crt.images import ImagesLike

__all__ = ["CAMMixin"]


class CAMMixin:
    """Methods for a module with the members of ``CAMModel``."""

    def segment(
        self, img: ImagesLike, *, refiner: nn.Module | None = None, threshold: float | None = None, **settings: Any
    ) -> Tensor:
        """Masks without labels, at the size of the photo.

        Args:
            img: see ``cam``.
            refiner: as ``crt.create_refiner`` makes it, or None.
            threshold: background score, for models whose activation is not "softmax"; None takes the model's.
            settings: how the photo is seen, as for ``cam``: scales, flip, batch_size, max_side, stride, or a preset,
                ``**crt.cam.PRESETS["fast"]``.

        Returns:
            (B, H, W) uint8 (int32 beyond 254 classes); 0 = background, i + 1 = class i.  Photos of different sizes lie
            in the top left corner of the common H and W, 255 around them.

        Raises:
            TypeError, ValueError, OSError: as for ``cam``.
        """
        results = Segmenter(cast(CAMModel, self), refiner=refiner, threshold=threshold, **settings)(img)
        return stack_masks([result.mask for result in results])
