"""Training on a frozen backbone: from image-level labels to maps in which classes and background compete.

The backbone sees each image once (``FeatureCache``); all else is linear layers on its patches, minutes on two cores:

1. objectness, from the class token's attention, without labels (``fit_objectness``);
2. a classifier of mean patches, whose maps times objectness, spread by the features' affinity, give each patch a first
   label (``label_by_maps``);
3. a layer of K + 1 classes, trained on these patches (``fit_patches``);
4. expectation maximization: what that layer is sure of, after a margin for each class, becomes the next labels
   (``label_by_head``), and the layer is trained again.

The layer becomes the model's head.  Only differences to the background matter in a softmax, so K channels are enough,
and the margins become part of the bias.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from crt._files import lock_folder, require_regular, write_tensors
from crt.data import ImageDataset
from crt.jobs.peers import Peers
from crt.models import CRT
from crt.train.features import FeatureCache
from crt.train.head import install_head, patch_masks
from crt.train.loop import Progress
from crt.train.margins import best_margins, lowered, margin_counts, otsu_margins
from crt.train.objectness import Linear, fit_objectness
from crt.train.patch_labels import fit_labels, fit_patches, label_by_head, label_by_maps
from crt.train.recipe import FrozenRecipe

__all__ = ["fold_background", "train_frozen"]

FORMAT = 1
ENOUGH = 3000  # images from which margins are chosen without masks, at least, where there are as many


def train_frozen(
    model: CRT,
    dataset: ImageDataset,
    out: str | os.PathLike[str],
    recipe: FrozenRecipe,
    *,
    truth: ImageDataset | None = None,
    force: bool = False,
    seed: int = 0,
    progress: Progress = lambda steps, first, total, status: steps,
) -> CRT:
    """Trains head and classifier; the model ends up in ``out/model``.

    The result of each step is a file in ``out``; an interrupted run resumes after the last of them when it is called
    again with the same arguments.  Steps that a changed setting concerns are done again, and those after them.
    Under torchrun the processes share the images out; the steps after that run in the first.

    Args:
        model: gives the backbone, which stays as it is; head, classifier and settings are replaced.
        dataset: the training images.
        out: folder for features, steps and model; made if need be.
        recipe: the settings, for example ``RECIPES["s16-voc9k"]``.
        truth: images with masks, by which margins are chosen if ``recipe.margins`` is not "otsu"; nothing else is
            learned from them.
        force: train although a class is in all images or in none, with a warning.
        seed: of the order.
        progress: wraps the images or steps of each long step; see ``RunOptions``.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: a class that all images show, or none (``ImageDataset.check_trainable``); margins that are to be
            tuned without ``truth``, or ``truth`` with "otsu"; other classes; no image with a class.
        OSError: an image that cannot be read, a file that cannot be written, another process that has died.
    """
    if (truth is None) != (recipe.margins == "otsu"):
        raise ValueError('margins="tuned" and "tuned-last" need truth (images with masks), "otsu" takes none.')
    if truth is not None and list(truth.class_names) != list(dataset.class_names):
        raise ValueError(f"truth has the classes {truth.class_names}, the dataset {dataset.class_names}.")
    if model.num_classes != len(dataset.class_names):
        raise ValueError(f"the model has {model.num_classes} classes, the dataset {len(dataset.class_names)}.")
    dataset.check_trainable(force=force)
    out = Path(out)
    cache = FeatureCache(model, dataset, out / "features", scale=recipe.view_scale, progress=progress)
    if not cache.targets.any():
        raise ValueError("no image shows a class.")
    seen = None
    if truth is not None:
        seen = FeatureCache(model, truth, out / "truth", scale=recipe.truth_scale, progress=progress)
    peers, steps = Peers.from_environment(), _Steps(out, recipe, cache, seen, seed, progress)
    if peers.rank == 0:
        with lock_folder(out):
            _install(model, recipe.spread, *steps.run())
            model.save_pretrained(out / "model")
    peers.finish()
    if peers.rank:  # every step is a file now
        _install(model, recipe.spread, *steps.run())
    return model.eval()


def _install(model: CRT, spread: float, head: nn.Conv2d, classifier: Linear) -> None:
    """Makes head and classifier those of a model, and sets how it computes maps."""
    model.attention_power, model.activation, model.pool = 0.0, "softmax", 0.1
    model.spread, model.whole, model.classifier_kind = spread, True, "tokens"
    model.seed_threshold = 0.5  # a class is likelier than the background
    model.reset_classifier(model.num_classes, model.class_names)
    install_head(model, head)
    layer: Any = model.classifier
    with torch.no_grad():
        layer.weight.copy_(classifier.weight)
        layer.bias.copy_(classifier.bias)


def fold_background(head: Linear, margins: Tensor) -> nn.Conv2d:
    """K + 1 outputs with margins -> a 1 x 1 convolution of K: w_c - w_0 and b_c - b_0 - t_c.

    The softmax over zero (the background) and these K outputs is that of all K + 1.
    """
    conv = nn.Conv2d(head.weight.shape[1], len(margins), kernel_size=1)
    with torch.no_grad():
        conv.weight.copy_((head.weight[1:] - head.weight[:1])[:, :, None, None])
        conv.bias = nn.Parameter(head.bias[1:] - head.bias[0] - margins)
    return conv.eval().requires_grad_(False)


@dataclasses.dataclass
class _Steps:
    """The steps of a run; each result is a file under a fingerprint of all that it depends on."""

    folder: Path
    recipe: FrozenRecipe
    cache: FeatureCache
    truth: FeatureCache | None
    seed: int
    progress: Progress

    def __post_init__(self) -> None:
        self.start = [self.cache.fingerprint(), self.seed]

    def run(self) -> tuple[nn.Conv2d, Linear]:
        """The head, in which background and margins are folded, and the classifier of whole images."""
        r, start = self.recipe, self.start
        objectness, key = self._layer(
            "objectness",
            [*start, r.object_quantile, r.object_ridge],
            lambda: fit_objectness(self.cache, quantile=r.object_quantile, ridge=r.object_ridge),
        )
        classifier, key_maps = self._layer(
            "classifier", [*start, r.steps, r.batch_size, r.lr, r.weight_decay], self._classifier
        )
        labels, key = self._kept(
            "labels-0",
            [key, key_maps, r.map_spread, r.object_floor, r.background_below, r.object_above],
            partial(self._first_labels, classifier, objectness),
        )
        fitted = [r.batch_patches, r.head_lr, r.head_weight_decay]
        for number in range(r.rounds + 1):
            count = r.head_steps if number == 0 else r.round_steps
            head, key = self._layer(
                f"head-{number}", [key, count, *fitted], partial(self._head, labels["labels"], count)
            )
            margins, key = self._kept(
                f"margins-{number}",
                [key, r.margins, r.spread, None if self.truth is None else self.truth.fingerprint()],
                partial(self._margins, head, tune=r.margins == "tuned" or number == r.rounds),
            )
            if number < r.rounds:
                labels, key = self._kept(
                    f"labels-{number + 1}",
                    [key, r.spread, r.confidence],
                    partial(self._next_labels, head, margins["margins"]),
                )
        return fold_background(head, margins["margins"]), self._token_classifier()

    def _classifier(self) -> Linear:
        r = self.recipe
        settings: dict[str, Any] = {"steps": r.steps, "batch_size": r.batch_size, "lr": r.lr}
        means, targets = self.cache.means(), self.cache.targets
        return fit_labels(means, targets, weight_decay=r.weight_decay, seed=self.seed, **settings)

    def _token_classifier(self) -> Linear:
        r = self.recipe
        settings = [*self.start, r.token_steps, r.token_lr, r.token_weight_decay]
        return self._layer("tokens", settings, self._tokens)[0]

    def _tokens(self) -> Linear:
        """A layer on class token and mean patch; their standardization becomes part of it."""
        r = self.recipe
        x = torch.cat([self.cache.class_tokens().float(), self.cache.means()], dim=1)
        center, deviation = x.mean(dim=0), x.std(dim=0, correction=0) + 1e-6
        settings: dict[str, Any] = {"steps": r.token_steps, "batch_size": None, "lr": r.token_lr, "seed": self.seed}
        layer = fit_labels((x - center) / deviation, self.cache.targets, weight_decay=r.token_weight_decay, **settings)
        weight = layer.weight / deviation
        return Linear(weight, layer.bias - weight @ center)

    def _first_labels(self, classifier: Linear, objectness: Linear) -> dict[str, Tensor]:
        r = self.recipe
        labels = label_by_maps(
            self.cache,
            classifier,
            objectness,
            power=r.map_spread,
            floor=r.object_floor,
            below=r.background_below,
            above=r.object_above,
            watch=self._watch(len(self.cache), "first labels"),
        )
        return {"labels": labels}

    def _next_labels(self, head: Linear, margins: Tensor) -> dict[str, Tensor]:
        r, watch = self.recipe, self._watch(len(self.cache), "next labels")
        labels = label_by_head(self.cache, lowered(head, margins), power=r.spread, confidence=r.confidence, watch=watch)
        return {"labels": labels}

    def _head(self, labels: Tensor, steps: int) -> Linear:
        r = self.recipe
        return fit_patches(
            self.cache,
            labels,
            steps=steps,
            batch_patches=r.batch_patches,
            lr=r.head_lr,
            weight_decay=r.head_weight_decay,
            seed=self.seed,
            watch=self._watch(steps, "head"),
        )

    def _margins(self, head: Linear, *, tune: bool) -> dict[str, Tensor]:
        """By masks if there are any and ``tune`` is true, else without."""
        power = self.recipe.spread
        if self.truth is None or not tune:
            watch, every = self._watch(len(self.cache), "margins"), max(1, len(self.cache) // ENOUGH)
            return {"margins": otsu_margins(margin_counts(self.cache, head, power, every=every, watch=watch))}
        shares, watch = patch_masks(self.truth, self.truth.dataset), self._watch(len(self.truth), "margins")
        margins = torch.zeros(len(head.bias) - 1)
        for _ in range(2):  # spreading mixes what the first margins have moved
            margins = margins + best_margins(
                margin_counts(self.truth, lowered(head, margins), power, truth=shares, watch=watch)
            )
        return {"margins": margins}

    def _watch(self, total: int, what: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
        return lambda items: self.progress(items, 0, total, lambda: what)

    def _layer(self, name: str, settings: list[Any], compute: Callable[[], Linear]) -> tuple[Linear, str]:
        kept, key = self._kept(name, settings, lambda: compute()._asdict())
        return Linear(**kept), key

    def _kept(
        self, name: str, settings: list[Any], compute: Callable[[], dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], str]:
        """A step's result, from its file if that has the same fingerprint; and the fingerprint."""
        path = self.folder / f"{name}.safetensors"
        key = hashlib.sha256(json.dumps([FORMAT, name, settings]).encode()).hexdigest()
        try:
            with safe_open(require_regular(path), "pt") as file:
                if (file.metadata() or {}).get("fingerprint") == key:
                    return {part: file.get_tensor(part) for part in file.keys()}, key  # noqa: SIM118
        except (SafetensorError, OSError, RuntimeError):
            pass
        result = compute()
        write_tensors(path, result, {"fingerprint": key})
        return result, key
