"""What every model that offers ``CAMModel`` can do with photos."""

from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from crt.cam.extractor import CAMExtractor
from crt.cam.functional import Align
from crt.cam.protocol import CAMModel
from crt.cam.seen import patch_cams
from crt.cam.segment import Segmenter, stack_masks
from crt.images import ImagesLike, to_tensors
from crt.labels import LabelsLike

__all__ = ["CAMMixin"]


class CAMMixin:
    """Methods for a module with the members of ``CAMModel``."""

    def cam(
        self,
        img: ImagesLike,
        labels: LabelsLike | None = None,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = True,
        size: tuple[int, int] | None = None,
        normalize: bool = True,
        batch_size: int = 16,
        max_side: int | None = 640,
        stride: int | None = None,
        tile: int | Literal["whole", "own"] | None = None,
    ) -> Tensor:
        """Class activation maps at the size of the photo.

        Args:
            img: a PIL image; a file name; a (H, W, 3) uint8 array; a (3, H, W) or (B, 3, H, W) tensor, uint8 (raw
                pixels) or floating point (already normalized); or a list of these, which may differ in size.
            labels: for one image a class name, an index, or a list of them; for several a list with one list an image;
                or (B, K) multi-hot.  None takes the classes that the model predicts (probability over 0.5, or the
                likeliest).
            scales, flip, batch_size, max_side, stride, tile: how photos are seen, see ``CAMExtractor``;
                ``crt.cam.PRESETS`` has settings by name.
            size: (H, W) of the maps; None takes the photo's.
            normalize: divide each map by (its maximum + 1e-5); otherwise raw sums.  Where classes compete (activation
                "softmax"), maps are probabilities against the background instead, and are not divided.

        Returns:
            (B, K, H, W) float32 in [0, 1]; classes that are not in ``labels`` are exactly 0.  Photos of different sizes
            lie in the top left corner of the common H and W, zeros around them.  On the device of ``img`` (of the
            model, if that is no tensor).

        Raises:
            TypeError, ValueError: images or labels that cannot be understood; the message says what to do.
            OSError: a picture that cannot be decoded.
        """
        how: dict[str, Any] = {"batch_size": batch_size, "max_side": max_side, "stride": stride, "tile": tile}
        model = cast(CAMModel, self)
        results = CAMExtractor(model, scales=scales, flip=flip, normalize=normalize, **how)(img, labels, size=size)
        height, width = (max(result.maps.shape[axis] for result in results) for axis in (-2, -1))
        cams = results[0].maps.new_zeros(len(results), model.num_classes, height, width)
        for cam, result in zip(cams, results, strict=True):
            cam[result.labels, : result.maps.shape[-2], : result.maps.shape[-1]] = result.maps.to(cam.device)
        return cams

    def segment(
        self, img: ImagesLike, *, refiner: nn.Module | None = None, threshold: float | None = None, **settings: Any
    ) -> Tensor:
        """Masks without labels, at the size of the photo.

        Args:
            img: see ``cam``.
            refiner: as ``crt.create_refiner`` makes it, or None.
            threshold: background score, 0 to 1; None takes the model's.
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

    def raw_cam(self, x: Tensor, *, mirror: bool = True, align: Align = "exact") -> Tensor:
        """The unnormalized CAM at one scale, on the patch grid.

        Args:
            x: (B, 3, H, W) normalized floats.
            mirror: add the CAM of the mirrored image, mirrored back.
            align: "exact" resizes the image to whole patches; "reference" pads it and its mirror image on the right
                as the public reference does, which shifts their maps against each other by up to a patch.

        Returns:
            (B, K, ceil(H / patch), ceil(W / patch)) float32, not negative.
        """
        if align not in get_args(Align):
            raise ValueError(f"align must be 'exact' or 'reference', got {align!r}.")
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise ValueError(f"expected normalized floats of shape (B, 3, H, W), got {x.dtype} {tuple(x.shape)}.")
        model, images = cast(CAMModel, self), to_tensors(x)
        return torch.stack([patch_cams(model, image, mirror=mirror, align=align) for image in images]).to(x.device)
