"""``crt eval``: measuring."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crt.cli.common import autocast, class_list, find_device, load_model, load_refiner, make_extractor
from crt.cli.options import (
    DEFAULT_MODEL,
    BatchSize,
    BFloat16,
    Classes,
    Data,
    Device,
    Flip,
    Machine,
    Model,
    Refine,
    Scales,
    Seen,
    Truth,
    grouped,
)
from crt.cli.report import check_outputs, numbers, show
from crt.cli.screen import progress_bar
from crt.cli.segment import make_segmenter

if TYPE_CHECKING:
    from crt.data import ImageDataset
    from crt.evaluate.summary import Subject

app = typer.Typer(no_args_is_help=True)

Record = Annotated[Path | None, typer.Option("--json", help="Write all results to this file, as JSON.")]
Plot = Annotated[
    Path | None,
    typer.Option(help="Draw the scores over thresholds to this file, a PNG (pip install 'crt-wsss\\[eval]')."),
]
Worst = Annotated[
    Path | None, typer.Option(help="Write a contact sheet of the twenty worst images to this file, a PNG.")
]


@app.callback()
def _group() -> None:
    """Measure maps, masks or boxes against ground truth."""


@app.command("cam")
@grouped
def eval_cam(
    *,
    source: Data,
    truth: Truth = None,
    classes: Classes = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model: a name from `crt models`, local-dir:FOLDER, or hf-hub:ORG/NAME. Default: crt_vit_s16."
        ),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(help="Instead of --model: a folder of saved maps, NAME.cam.safetensors (from `crt cam`)."),
    ] = None,
    seen: Seen,
    refine: Refine = "none",
    thresholds: Annotated[
        str, typer.Option(help="Background scores to try: FIRST:LAST:STEP, or one number.")
    ] = "0.02:0.60:0.02",
    machine: Machine,
    record: Record = None,
    plot: Plot = None,
    worst: Worst = None,
) -> None:
    """Measure a model's maps: mIoU of the seeds at the best background threshold.

    Uses the image-level labels of the data set; with --refine, maps are refined first.
    """
    from crt.evaluate import measure_seeds, sheets
    from crt.evaluate.record import seen_by
    from crt.evaluate.seeds import seeds_of_folder, seeds_of_model
    from crt.evaluate.summary import summarize_seeds

    check_outputs(plot, json=record, worst=worst)
    if maps is not None and (model is not None or refine != "none"):
        raise ValueError("give either --model or --maps; --refine is for a model's maps.")
    levels = numbers(thresholds, "--thresholds", "0.02:0.6:0.02")
    known, device = class_list(classes), find_device(machine.device if maps is None else "cpu")
    fixed = None
    if maps is None:
        name = model or DEFAULT_MODEL
        network = load_model(name, device)
        fixed = float(network.seed_threshold)
        known = known or (list(network.class_names or []) or None if source.images is not None else None)
        extractor = make_extractor(network, machine.batch_size, seen)
        seeds: Any = partial(seeds_of_model, extractor, refiner=load_refiner(refine, network, device))
        about = _subject("model", name, source, truth, refiner=refine, seen=seen_by(extractor, machine.bf16))
    else:
        seeds, about = partial(seeds_of_folder, maps), _subject("maps", str(maps), source, truth)
    data = _with_masks(source, truth, known)
    with autocast(device, machine.bf16):
        found = measure_seeds(seeds(data), data, levels, fixed=fixed, progress=progress_bar)
    summary = summarize_seeds(found, data, about)
    show(summary)
    summary.write(record, plot)
    with autocast(device, machine.bf16):
        summary.write_worst(worst, sheets.seed_rows(data, summary.worst, seeds, found.curve.best()[0]))


@app.command("masks")
@grouped
def eval_masks(
    *,
    masks: Annotated[Path, typer.Option(help="Folder of masks to measure: NAME.png or NAME.mask.png.")],
    source: Data,
    truth: Truth = None,
    classes: Classes = None,
    record: Record = None,
    worst: Worst = None,
) -> None:
    """Measure a folder of masks: mIoU and boundary IoU."""
    from crt.evaluate import measure_masks, sheets
    from crt.evaluate.summary import summarize_masks

    check_outputs(json=record, worst=worst)
    if worst is not None and source.root is None:
        raise ValueError("--worst shows images: give --images.")
    data = _masks_alone(source, truth, class_list(classes))
    found = measure_masks(masks, data, progress=progress_bar)
    summary = summarize_masks(found, data, _subject("masks", str(masks), source, truth))
    show(summary)
    summary.write(record)
    summary.write_worst(worst, sheets.mask_rows(data, summary.worst, masks))


@app.command("boxes")
@grouped
def eval_boxes(
    *,
    model: Model,
    source: Data,
    classes: Classes = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Box threshold for Top-1, Top-5 and GT-known, as a share of the map's range. Default: the model's.",
        ),
    ] = None,
    thresholds: Annotated[
        str, typer.Option(help="Thresholds to try for MaxBoxAcc, which takes the best: FIRST:LAST:STEP.")
    ] = "0:0.99:0.01",
    square: Annotated[
        int | None, typer.Option(min=16, help="Resize images to squares with sides of this many pixels (usually 224).")
    ] = None,
    scales: Scales = "1",
    flip: Flip = True,
    refine: Refine = "none",
    bf16: BFloat16 = False,
    device: Device = "auto",
    batch_size: BatchSize = 16,
    record: Record = None,
    plot: Plot = None,
    worst: Worst = None,
) -> None:
    """Measure localization: a box per image, from the map of its class.

    Top-1 and Top-5 also require the model to rank the true class among its first 1 or 5.
    """
    from crt.evaluate import measure_boxes, sheets
    from crt.evaluate.record import seen_by
    from crt.evaluate.summary import summarize_boxes

    check_outputs(plot, json=record, worst=worst)
    levels = numbers(thresholds, "--thresholds", "0:0.99:0.01")
    if source.cub is not None:
        source = source._replace(split=source.split or "test")
    data, target = _load(source, class_list(classes)), find_device(device)
    network = load_model(model, target)
    extractor = make_extractor(network, batch_size, Seen("", scales, flip))
    refiner = load_refiner(refine, network, target)
    share, rule = (network.seed_threshold, "the model's") if threshold is None else (threshold, "given")
    with autocast(target, bf16):
        found = measure_boxes(
            extractor, data, share, thresholds=levels, square=square, refiner=refiner, progress=progress_bar
        )
    about = _subject("model", model, source, refiner=refine, seen=seen_by(extractor, bf16))
    summary = summarize_boxes(found, data, about, threshold_rule=rule, square=square)
    show(summary)
    summary.write(record, plot)
    summary.write_worst(worst, sheets.box_rows(data, summary.worst, found.boxes), columns=5, width=230)


@app.command("segment")
@grouped
def eval_segment(
    *,
    source: Data,
    truth: Truth = None,
    classes: Classes = None,
    model: Model = DEFAULT_MODEL,
    refine: Refine = "none",
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Background score. Default: the model's.")
    ] = None,
    seen: Seen,
    machine: Machine,
    record: Record = None,
) -> None:
    """Measure a model's masks without labels: mIoU, boundary IoU, and mAP of the classes it predicts."""
    from crt.evaluate import measure_classification, measure_segmentation
    from crt.evaluate.summary import summarize_segmentation

    check_outputs(json=record)
    device = find_device(machine.device)
    network: Any = load_model(model, device)
    data = _masks_alone(source, truth, class_list(classes) or network.class_names)
    segmenter, settings = make_segmenter(network, device, refine, threshold, seen, machine.batch_size)

    def predict(image: Any) -> Any:
        return network.segment(image, **settings)[0] if segmenter is None else segmenter(image)[0].mask

    mean_ap = None
    with autocast(device, machine.bf16):
        found = measure_segmentation(predict, data, progress=progress_bar)
        if segmenter is not None and any(sample.labels for sample in data):
            ranked = measure_classification(segmenter.extractor, data, progress=progress_bar)
            mean_ap = float(ranked.compute()["map"])
    about = _subject("model", model, source, truth, refiner=refine, seen={**settings, "bf16": machine.bf16})
    summary = summarize_segmentation(found, data, about, threshold=threshold, mean_ap=mean_ap)
    show(summary)
    summary.write(record)


def _load(source: Data, class_names: list[str] | None, truth: Path | bool | None = None) -> "ImageDataset":
    if source.voc is not None and source.split is None:
        raise ValueError("--voc needs --list: a file in ImageSets/Segmentation, such as train.")
    return source.load(class_names, truth=truth)


def _with_masks(source: Data, truth: Path | None, class_names: list[str] | None) -> "ImageDataset":
    """The data set, each image with its ground-truth mask."""
    if truth is None and source.voc is None and source.root is not None:
        raise ValueError("give --truth, the folder of ground-truth masks (NAME.png).")
    return _load(source, class_names, True if truth is None else truth)


def _masks_alone(source: Data, truth: Path | None, class_names: list[str] | None) -> "ImageDataset":
    """The data set with ground-truth masks, for measuring masks: labels are not needed, nor are the images."""
    from crt.evaluate.masks import list_true_masks

    if truth is None or source.voc is not None or source.cub is not None or source.labels is not None:
        return _with_masks(source, truth, class_names)
    return list_true_masks(truth, class_names, source.images)


def _subject(kind: Any, name: str, source: Data, truth: Path | None = None, **how: Any) -> "Subject":
    """What is measured, for the title and the record."""
    from crt.evaluate.summary import Subject

    root = source.root or truth
    return Subject(kind, name, "" if root is None else root.resolve().name, source.split, **how)
