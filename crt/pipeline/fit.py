"""From image-level labels to a model that needs none, and a report: ``fit``."""

import dataclasses
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from crt._files import lock_folder, remove_leftovers, whole_file
from crt._messages import printable
from crt.data import ImageDataset, Sample
from crt.images import open_image
from crt.models import CRT, SegmentationNet
from crt.pipeline.commands import repeat_commands
from crt.pipeline.journal import Journal
from crt.pipeline.measures import measure_model, measure_seeds_of
from crt.pipeline.pictures import Shown, choose_samples, show_samples
from crt.pipeline.recipe import FitRecipe
from crt.pipeline.report import Report, write_report
from crt.pipeline.stages import Stages
from crt.train.loop import Progress

__all__ = ["FitResult", "fit", "leave_out_unreadable", "with_truth"]

_log = logging.getLogger(__name__)
PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a run gave.

    Attributes:
        model: segments photos without labels (``segment``); also in ``folder``.
        folder: ``OUT/model``, for ``crt.create_model("local-dir:OUT/model", pretrained=True)``.
        report: ``OUT/report.html``.
        left_out: (file, reason) of the photos that could not be read.
    """

    model: CRT | SegmentationNet
    folder: Path
    report: Path
    left_out: list[tuple[str, str]]


def fit(
    dataset: ImageDataset,
    out: PathLike,
    recipe: FitRecipe | None = None,
    *,
    truth: PathLike | None = None,
    device: torch.device | str = "cpu",
    force: bool = False,
    source: str = "--images PHOTOS --labels LABELS",
    progress: Progress = lambda steps, first, total, status: steps,
) -> FitResult:
    """Learns to segment the classes of a data set from its image-level labels alone.

    Labels -> CAM stage on frozen features (``train_frozen``) -> maps -> pseudo masks (``make_pseudo_masks``), with
    thresholds from a mixture over the scores -> optionally a boundary network (``train_refine``) and masks made with it
    -> a head on these masks (``train_head``), or a whole network (``train_segment``).  Each stage has its folder in
    ``out``; an interrupted run resumes when it is called again with the same arguments.

    Args:
        dataset: photos with labels; those without are negatives.
        out: folder of the run; made if need be.
        recipe: the settings; None takes ``FitRecipe()``.
        truth: folder of true masks, ``NAME.png``, of some of the photos: each stage is measured on them, and nothing
            is learned from them.
        device: where backbones run.
        force: go on although a class is in all photos, or in none.
        source: how commands in the report name the data set.
        progress: wraps the photos or steps of each long step; see ``crt.train.loop.RunOptions``.

    Raises:
        ValueError: labels from which nothing can be learned (before any work), ``out`` holds a run with other settings
            or photos, several processes.
        BlockingIOError: another run is writing to ``out``.
        OSError: weights that cannot be found, a file that cannot be written.
    """
    recipe, folder = recipe or FitRecipe(), Path(out)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("crt fit runs in one process; torchrun can run its longer stages one by one (see the report).")
    recipe.check_data(dataset, force=force)
    _check_apart(dataset, folder)
    dataset, left_out = leave_out_unreadable(dataset)
    recipe.check_data(dataset, force=force)
    measured = None if truth is None else with_truth(dataset, truth)
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        remove_leftovers(folder)
        journal = Journal(folder)
        stages = Stages(dataset, folder, recipe, journal, torch.device(device), journal.watch(progress))
        model, shown = _run(stages, measured)
        model.save_pretrained(folder / "model", card={"name": folder.resolve().name, "notes": _notes(dataset, recipe)})
        report = Report(
            folder.resolve().name,
            dataset,
            recipe,
            journal,
            shown,
            repeat_commands(folder, recipe, source, journal),
            left_out,
            logs={name: folder / name / "log.jsonl" for name in ("boundary", "segment")},
        )
        with whole_file(folder / "report.html") as temporary:
            temporary.write_text(write_report(report), encoding="utf-8")
    return FitResult(model, folder / "model", folder / "report.html", left_out)


def _run(stages: Stages, truth: ImageDataset | None) -> tuple[CRT | SegmentationNet, Shown]:
    """All stages in order, each measured if there is truth; and some photos at each stage."""
    recipe, journal = stages.recipe, stages.journal
    cams = stages.cam()
    measure_seeds_of(journal, "cam", cams, truth, "none", stages.progress)
    last, refiner = "masks", recipe.refiner
    masked = stages.masks(cams, last, refiner, "cam")
    measure_seeds_of(journal, last, cams, truth, refiner, stages.progress)
    folders = {"masks": stages.folder / "masks"}
    if recipe.boundary:
        last, refiner = "masks-boundary", stages.boundary(masked)
        masked = stages.masks(cams, last, refiner, "boundary")
        measure_seeds_of(journal, last, cams, truth, refiner, stages.progress)
        folders[last] = stages.folder / last
    model = stages.segment(cams, masked, last)
    measure_model(journal, "segment", model, truth, stages.progress)
    chosen = choose_samples(stages.dataset)
    shown = show_samples(cams, model, chosen, folders, stages.progress)
    return model, shown


def leave_out_unreadable(dataset: ImageDataset) -> tuple[ImageDataset, list[tuple[str, str]]]:
    """The photos that can be decoded, and (file, reason) of the others, each with a warning in the log."""
    kept: list[Sample] = []
    left_out: list[tuple[str, str]] = []
    for sample, reason in zip(dataset, _reasons(dataset), strict=True):
        if reason is None:
            kept.append(sample)
        else:
            left_out.append((str(sample.image), reason))
            _log.warning("left out: %s", printable(reason))
    return ImageDataset(kept, dataset.class_names), left_out


def _reasons(dataset: ImageDataset) -> Iterator[str | None]:
    """Why each photo cannot be read, or None."""

    def reason(sample: Sample) -> str | None:
        try:
            open_image(sample.image)
        except Exception as error:  # decoders raise what they like
            return str(error) if isinstance(error, OSError) else f"{sample.image}: {type(error).__name__}: {error}"
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(reason, dataset)


def with_truth(dataset: ImageDataset, folder: PathLike) -> ImageDataset:
    """The photos that have a true mask ``NAME.png`` in a folder.

    Raises:
        ValueError: no photo has one.
    """
    files = {sample.name: Path(folder) / f"{sample.name}.png" for sample in dataset}
    samples = [sample._replace(mask=files[sample.name]) for sample in dataset if files[sample.name].is_file()]
    if not samples:
        raise ValueError(f"no photo has a true mask in {printable(folder)}; the first would be {_first(files)}.")
    return ImageDataset(samples, dataset.class_names)


def _first(files: dict[str, Path]) -> str:
    return printable(next(iter(files.values()), ""))


def _check_apart(dataset: ImageDataset, folder: Path) -> None:
    """ValueError if a photo lies where the run writes."""
    own = folder.resolve()
    for parent in {sample.image.parent.resolve() for sample in dataset}:
        if own == parent or own in parent.parents:
            raise ValueError(f"there are photos in {printable(folder)}; choose another folder for the run (--out).")


def _notes(dataset: ImageDataset, recipe: FitRecipe) -> str:
    negatives = sum(not sample.labels for sample in dataset)
    return (
        f"Learned by `crt fit` from the image-level labels of {len(dataset)} photos, {negatives} of them negatives; no "
        f"mask was used. Seed {recipe.seed}; refiner {recipe.refiner}, boundary network {recipe.boundary}, "
        f"segmentation stage {recipe.segment!r}."
    )
