"""Features of a frozen backbone, computed once for each image and kept on disk.

A head then trains on them in minutes, because the backbone never runs again.  The features are written in shards of a
few hundred images, each whole or not at all and each under a fingerprint of the weights, the settings and the images in
it: an interrupted job resumes at the next shard, and what has changed is computed again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crt._files import lock_folder, remove_leftovers, require_regular, tensors_digest, write_tensors
from crt._messages import printable
from crt.cam.attention import evaluating
from crt.data import ImageDataset
from crt.images import normalize, open_image, resize
from crt.jobs.peers import Peers
from crt.models import CRT
from crt.train.loop import Progress

__all__ = ["FeatureCache", "Features", "whole_features"]

FORMAT = 2


class Features(NamedTuple):
    """What the backbone sees in one image.

    Attributes:
        class_token: (D,) float32.
        patches: (D, h, w) float32, one vector for each patch.
        attention: (h, w) float32, the class token's attention in the last block.
    """

    class_token: Tensor
    patches: Tensor
    attention: Tensor


class FeatureCache:
    """The features of every image of a data set; those that are not on disk yet are computed first.

    Under torchrun the processes share the shards out, and wait for one another as long as all of them are alive.

    Args:
        model: gives the backbone; only its weights, ``num_passes``, patch and normalization matter, not its head.
        dataset: the images, in this order.
        out: folder of the shards; made if need be.
        scale: factor at which an image is seen, rounded to whole patches.
        max_side: an image with a longer side (pixels) is reduced to it first; None does not reduce.
        flip: see the mirrored image (the features are mirrored back).
        shard: images in one file.
        progress: wraps the indices of the images to be computed; see ``RunOptions``.

    Attributes:
        targets: (N, K) float32, the labels of the images as multi-hot vectors.

    Raises:
        ValueError: features that are not finite, or a scale that is not above 0.
        OSError: an image that cannot be read, a shard that cannot be written, a folder in which another job writes,
            another process of this job that has died (``Peers.finish``).

    A float16 file holds 2 * D bytes for each patch: 5 GB for 9000 images of 500 x 375 pixels, patch 16 and D = 384.
    """

    def __init__(
        self,
        model: CRT,
        dataset: ImageDataset,
        out: str | os.PathLike[str],
        *,
        scale: float = 1.0,
        max_side: int | None = 640,
        flip: bool = False,
        shard: int = 256,
        progress: Progress = lambda steps, first, total, status: steps,
    ) -> None:
        if not 0 < scale <= 16 or shard < 1:
            raise ValueError(f"scale must be above 0 and at most 16, shard at least 1; got {scale} and {shard}.")
        self.model, self.dataset, self.folder = model, dataset, Path(out)
        self.scale, self.max_side, self.flip, self.shard = scale, max_side, flip, shard
        self.targets = torch.zeros(len(dataset), len(dataset.class_names))
        for row, sample in zip(self.targets, dataset, strict=True):
            row[sample.labels] = 1
        weights = {**model.backbone.state_dict(), "mean": torch.tensor(model.config["mean"])}
        weights["std"] = torch.tensor(model.config["std"])
        settings = [FORMAT, model.backbone_name, model.num_passes, scale, max_side, flip]
        self._key = json.dumps([*settings, tensors_digest(weights)])
        self._fill(progress)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Features:
        """The features of one image; only its part of the file is read."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images.")
        with _open(self._path(index // self.shard)) as file:
            grids, place = file.get_tensor("grids"), index % self.shard
            first = int(grids[:place].prod(dim=1).sum())
            h, w = grids[place].tolist()
            patches = file.get_slice("patches")[first : first + h * w]
            attention = file.get_slice("attention")[first : first + h * w]
            token = file.get_slice("class_tokens")[place : place + 1][0]
        return Features(token.float(), patches.float().T.reshape(-1, h, w).contiguous(), attention.reshape(h, w))

    def grids(self) -> Tensor:
        """(N, 2) integers, the rows and columns of patches of each image."""
        return self._tensors("grids")

    def means(self) -> Tensor:
        """(N, D) float32, the mean patch of each image."""
        return self._tensors("means")

    def class_tokens(self) -> Tensor:
        """(N, D) float16, the class token of each image."""
        return self._tensors("class_tokens")

    def attentions(self) -> Tensor:
        """(T,) float32, the class token's attention to all patches of all images in order."""
        return self._tensors("attention")

    def fingerprint(self) -> str:
        """Of the weights, the settings, the images and their labels."""
        parts = [_fingerprint_of(self._path(number)) for number in self._numbers()]
        labels = [sample.labels for sample in self.dataset]
        return hashlib.sha256(json.dumps([parts, labels, self.dataset.class_names]).encode()).hexdigest()

    def _tensors(self, name: str) -> Tensor:
        """A tensor of all shards, one below the other."""
        parts = []
        for number in self._numbers():
            with _open(self._path(number)) as file:
                parts.append(file.get_tensor(name))
        return torch.cat(parts)

    def shards(self) -> Iterator[tuple[range, Tensor, Tensor]]:
        """For each file the indices of its images, their grids (n, 2) and all their patches (T, D) float16 in order."""
        for number in self._numbers():
            with _open(self._path(number)) as file:
                yield self._indices(number), file.get_tensor("grids"), file.get_tensor("patches")

    def shard_patches(self, number: int) -> Tensor:
        """The patches (T, D) float16 of one file."""
        with _open(self._path(number)) as file:
            return file.get_tensor("patches")

    def _numbers(self) -> range:
        return range(-(-len(self) // self.shard))

    def _indices(self, number: int) -> range:
        return range(number * self.shard, min((number + 1) * self.shard, len(self)))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05}.safetensors"

    def _fingerprint(self, number: int) -> str:
        """Of the settings and of the content of the shard's images."""
        digest = hashlib.sha256(self._key.encode())
        for index in self._indices(number):
            with open(require_regular(self.dataset[index].image), "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            digest.update(b"|")
        return digest.hexdigest()

    def _fill(self, progress: Progress) -> None:
        """Computes what is missing, this process its share."""
        peers = Peers.from_environment()
        self.folder.mkdir(parents=True, exist_ok=True)
        mine = self._numbers()[peers.rank :: peers.world]
        prints = {number: self._fingerprint(number) for number in mine}
        missing = [number for number in mine if _fingerprint_of(self._path(number)) != prints[number]]
        if missing and peers.rank == 0:
            with lock_folder(self.folder):
                remove_leftovers(self.folder)
                self._compute(missing, prints, progress)
        elif missing:
            self._compute(missing, prints, lambda steps, first, total, status: steps)
        peers.finish()

    def _compute(self, missing: list[int], prints: dict[int, str], progress: Progress) -> None:
        todo = [index for number in missing for index in self._indices(number)]
        images = iter(progress(iter(todo), 0, len(todo), lambda: ""))
        for number in missing:
            tensors = self._stack([next(images) for _ in self._indices(number)])
            write_tensors(self._path(number), tensors, {"fingerprint": prints[number]})
        for _ in images:  # lets a progress bar end
            pass

    def _stack(self, indices: Iterable[int]) -> dict[str, Tensor]:
        """The tensors of a shard."""
        patches, tokens, means, grids, attention = [], [], [], [], []
        for index in indices:
            found = self._see(index)
            flat = found.patches.flatten(1).T
            grids.append(torch.tensor(found.patches.shape[1:]))
            patches.append(flat.half())
            tokens.append(found.class_token.half())
            means.append(flat.mean(dim=0))
            attention.append(found.attention.flatten())
            if not torch.isfinite(patches[-1]).all() or not torch.isfinite(tokens[-1]).all():
                raise ValueError(f"the features of {printable(self.dataset[index].image)} are not finite in float16.")
        stacked = {"class_tokens": torch.stack(tokens), "means": torch.stack(means), "grids": torch.stack(grids)}
        return {"patches": torch.cat(patches), "attention": torch.cat(attention), **stacked}

    def _see(self, index: int) -> Features:
        """The features of one image, on the CPU."""
        model = self.model
        image = open_image(self.dataset[index].image, max_side=self.max_side).to(model.device)
        size = nearest_size(image.shape[-2], image.shape[-1], self.scale, model.patch)
        pixels = resize(image.float() / 255, size, antialias=self.scale < 1)
        pixels = normalize(pixels.clamp(0, 1), model.config["mean"], model.config["std"])
        found = whole_features(model, (pixels.flip(-1) if self.flip else pixels)[None])
        maps = [part.flip(-1) if self.flip else part for part in found[1:]]
        return Features(found.class_token.float().cpu(), *(part.float().cpu() for part in maps))


def nearest_size(height: int, width: int, scale: float, patch: int) -> tuple[int, int]:
    """The whole number of patches, at least one, that is nearest to (height, width) * scale, in pixels.

    >>> nearest_size(375, 500, 1.0, 16)
    (368, 496)
    """
    h, w = (max(1, round(side * scale / patch)) * patch for side in (height, width))
    return h, w


@torch.no_grad()
def whole_features(model: CRT, x: Tensor) -> Features:
    """The backbone's output for a whole image, without tiles (``CRT.forward_features``).

    Args:
        model: see ``FeatureCache``; its mode stays as it is.
        x: (1, 3, H, W) normalized floats, H and W whole patches.
    """
    vit: Any = model.backbone
    grid = [x.shape[-2] // model.patch, x.shape[-1] // model.patch]
    rows: list[Tensor] = []
    with evaluating(model):
        tokens = model.forward_features(x.to(vit.pos_embed), rows, last=True)[0]
    return Features(tokens[0], tokens[model.prefix :].T.reshape(-1, *grid), rows[0][0].reshape(*grid))


def _open(path: Path) -> Any:
    return safe_open(path, "pt")


def _fingerprint_of(path: Path) -> str | None:
    """What a shard says that it holds; None if it is not there or not whole."""
    try:
        with _open(require_regular(path)) as file:
            rows = file.get_slice("patches").get_shape()[0]
            whole = int(file.get_tensor("grids").prod(dim=1).sum()) == rows
            return (file.metadata() or {}).get("fingerprint") if whole else None
    except (SafetensorError, OSError, RuntimeError):
        return None
