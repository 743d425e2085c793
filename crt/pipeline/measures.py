"""Each stage of a run against true masks, where there are any; nothing is learned from them."""

from typing import Any

import torch
from torch import Tensor

from crt.data import ImageDataset
from crt.evaluate import measure_seeds, measure_segmentation
from crt.evaluate.seeds import seeds_of_model
from crt.models import CRT, SegmentationNet
from crt.pipeline.journal import Journal
from crt.pipeline.stages import make_extractor
from crt.refine import create_refiner
from crt.train.loop import Progress

__all__ = ["measure_model", "measure_seeds_of"]

LEVELS = [round(0.1 * i, 1) for i in range(1, 10)]


def measure_seeds_of(
    journal: Journal, stage: str, model: CRT, truth: ImageDataset | None, refiner: str, progress: Progress
) -> None:
    """Notes the mIoU of a model's maps, refined if asked, cut at the model's own threshold; labels are used.

    Args:
        journal: takes the fact "truth" of the stage.
        stage: its name.
        model: the CAM stage's.
        truth: photos with masks, or None.
        refiner: its name, or "none".
        progress: wraps the photos.
    """
    if truth is None or _known(journal, stage, truth):
        return
    network = None if refiner == "none" else create_refiner(refiner, pretrained=True, model=model).to(model.device)
    found = measure_seeds(
        seeds_of_model(make_extractor(model), truth, refiner=network),
        truth,
        LEVELS,
        fixed=float(model.seed_threshold),
        progress=lambda items, total: progress(items, 0, total, lambda: f"measuring {stage}"),
    )
    assert found.fixed is not None
    _note(journal, stage, truth, float(found.fixed.best()[1]), "maps of the known labels, at the model's threshold")


def measure_model(
    journal: Journal, stage: str, model: CRT | SegmentationNet, truth: ImageDataset | None, progress: Progress
) -> None:
    """Notes the mIoU of the masks that a model finds without labels; arguments as of ``measure_seeds_of``."""
    if truth is None or _known(journal, stage, truth):
        return

    def predict(image: Tensor) -> Tensor:
        with torch.no_grad():
            return model.segment(image)[0]

    found = measure_segmentation(
        predict, truth, progress=lambda items, total: progress(items, 0, total, lambda: f"measuring {stage}")
    )
    _note(journal, stage, truth, float(found.masks.compute()["miou"]), "masks without labels")


def _known(journal: Journal, stage: str, truth: ImageDataset) -> bool:
    known: dict[str, Any] = journal.facts(stage).get("truth", {})
    return known.get("digest") == truth.digest()


def _note(journal: Journal, stage: str, truth: ImageDataset, miou: float, rule: str) -> None:
    fact = {"digest": truth.digest(), "photos": len(truth), "miou": round(miou, 5), "rule": rule}
    journal.facts(stage)["truth"] = fact
    journal.save()
