"""``crt eval``: measuring."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from crt.cli import report as screen
from crt.cli.common import (
    CUB,
    DEFAULT_MODEL,
    VOC,
    BatchSize,
    BFloat16,
    Classes,
    Device,
    Flip,
    Images,
    Labels,
    Model,
    Preset,
    Refine,
    Scales,
    Split,
    Stride,
    Truth,
    autocast,
    class_list,
    find_device,
    load_model,
    load_refiner,
    make_extractor,
    progress_bar,
)
from crt.cli.measured import Source, images_with_masks, name_refiner, title_worst

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
def eval_cam(
    images: Images = None,
    labels: Labels = None,
    voc: VOC = None,
    cub: CUB = None,
    split: Split = None,
    truth: Truth = None,
    classes: Classes = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model: a name from `crt models`, local-dir:FOLDER, or hf-hub:ORG/NAME. Default: crt_vit_t16."
        ),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(help="Instead of --model: a folder of saved maps, NAME.cam.safetensors (from `crt cam`)."),
    ] = None,
    preset: Preset = None,
    scales: Scales = None,
    flip: Flip = None,
    stride: Stride = None,
    refine: Refine = "none",
    thresholds: Annotated[
        str, typer.Option(help="Background scores to try: FIRST:LAST:STEP, or a single one.")
    ] = "0.02:0.60:0.02",
    bf16: BFloat16 = False,
    device: Device = "auto",
    batch_size: BatchSize = 16,
    record: Record = None,
    plot: Plot = None,
    worst: Worst = None,
) -> None:
    """Measure a model's maps: mIoU of the seeds at the best background threshold.

    Uses the image-level labels of the data set; with --refine, maps are refined first.
    """
    from crt.evaluate import measure_seeds, report, sheets
    from crt.evaluate import record as records
    from crt.evaluate.seeds import seeds_of_folder, seeds_of_model
    from crt.metrics.mask_iou import error_rates, iou_per_class

    screen.check_outputs(plot, json=record, worst=worst)
    if maps is not None and (model is not None or refine != "none"):
        raise ValueError("give either --model or --maps; --refine is for a model's maps.")
    levels = screen.numbers(thresholds, "--thresholds", "0.02:0.6:0.02")
    source, known, name = Source(images, labels, voc, cub, split, truth), class_list(classes), model or DEFAULT_MODEL
    extractor, fixed, target = None, None, find_device(device if maps is None else "cpu")
    if maps is None:
        network = load_model(name, target)
        fixed = float(network.seed_threshold)
        known = known or (list(network.class_names or []) or None if images is not None else None)
        extractor = make_extractor(network, batch_size, scales, flip, stride, preset)
        seeds: Any = partial(seeds_of_model, extractor, refiner=load_refiner(refine, network, target))
    else:
        seeds = partial(seeds_of_folder, maps)
    data = source.load(known, masks=True)
    with autocast(target, bf16):
        found = measure_seeds(seeds(data), data, levels, fixed=fixed, progress=progress_bar)
    (threshold, best), curve = found.curve.best(), found.curve.compute().view(-1)
    confusion = found.curve.confusion()[place := int(curve.argmax())]
    iou, (fp, fn) = iou_per_class(confusion), error_rates(confusion)
    rule = "best on this list" if len(levels) > 1 else "given"
    given = "their own labels" if maps is None else "the labels saved with the maps"
    kind = "seed mIoU" if refine == "none" else "refined mIoU"
    title = (
        f"{kind} {100 * best:.2f} of {f'{name}{name_refiner(refine)}' if maps is None else maps} on {source.title} "
        f"({len(data)} images, {given}, masks' resolution), background threshold {report.level(threshold)} ({rule}); "
        f"over the classes FP {report.percent(float(fp[1:].nanmean()))}, "
        f"FN {report.percent(float(fn[1:].nanmean()))}; mIoU at {report.rules(found)}"
    )
    names = ["background", *data.class_names]
    screen.show(title, {"IoU": iou.tolist(), "FP": fp.tolist(), "FN": fn.tolist()}, names)
    low = report.worst([sample.name for sample in data], found.photos[:, place])
    records.write_record(
        record,
        measure=kind,
        **({"model": name, "refiner": refine} if maps is None else {"maps": maps.resolve().name}),
        root=source.root,
        list=source.split,
        photos=len(data),
        labels=given,
        resolution="masks'",
        **(records.seen_by(extractor, bf16) if maps is None else {}),
        threshold_rule=rule,
        threshold=round(threshold, 6),
        miou=records.share(best),
        miou_by_rule={rule: records.share(miou) for rule, miou in found.columns().items()},
        fixed_threshold=fixed,
        curve={report.level(t): records.share(miou) for t, miou in zip(levels, curve.tolist(), strict=True)},
        **screen.class_fields(names, iou=iou, fp=fp, fn=fn),
        worst=[{"name": photo, "miou": records.share(score)} for _, photo, score in low],
    )
    report.write_plot(plot, title, "background threshold", levels, {kind: curve.tolist()})
    rows = sheets.seed_rows(data, low, seeds, threshold)
    with autocast(target, bf16):
        report.write_sheet(worst, title_worst(low, title), rows, columns=2, width=600)


@app.command("masks")
def eval_masks(
    masks: Annotated[Path, typer.Option(help="Folder of the masks to measure: NAME.png or NAME.mask.png.")],
    images: Images = None,
    labels: Labels = None,
    voc: VOC = None,
    cub: CUB = None,
    split: Split = None,
    truth: Truth = None,
    classes: Classes = None,
    record: Record = None,
    worst: Worst = None,
) -> None:
    """Measure a folder of masks: mIoU and boundary IoU."""
    from crt.evaluate import measure_masks, report, sheets
    from crt.evaluate import record as records

    screen.check_outputs(json=record, worst=worst)
    source = Source(images, labels, voc, cub, split, truth)
    if worst is not None and not (images or voc or cub):
        raise ValueError("--worst shows images: give --images.")
    data = images_with_masks(source, class_list(classes))
    found = measure_masks(masks, data, progress=progress_bar)
    scores, edges = found.masks.compute(), found.boundaries.compute()
    fp, fn = (report.percent(float(scores[name][1:].nanmean())) for name in ("fp", "fn"))
    title = (
        f"mIoU {100 * scores['miou']:.2f}, boundary IoU {100 * edges['miou']:.2f} of {masks} on {source.title} "
        f"({len(data)} images, masks' resolution), no threshold; over the classes FP {fp}, FN {fn}"
    )
    names = ["background", *data.class_names]
    columns = {"IoU": scores["iou"], "FP": scores["fp"], "FN": scores["fn"], "boundary IoU": edges["iou"]}
    screen.show(title, {column: values.tolist() for column, values in columns.items()}, names)
    low = report.worst([sample.name for sample in data], found.photos)
    records.write_record(
        record,
        measure="mask mIoU",
        masks=masks.resolve().name,
        root=source.root,
        list=source.split,
        photos=len(data),
        resolution="masks'",
        threshold_rule="none",
        miou=records.share(float(scores["miou"])),
        boundary_miou=records.share(float(edges["miou"])),
        boundary_ratio=found.boundaries.ratio,
        **screen.class_fields(names, iou=scores["iou"], fp=scores["fp"], fn=scores["fn"], boundary_iou=edges["iou"]),
        worst=[{"name": photo, "miou": records.share(score)} for _, photo, score in low],
    )
    rows = sheets.mask_rows(data, low, masks)
    report.write_sheet(worst, title_worst(low, title), rows, columns=2, width=600)


@app.command("boxes")
def eval_boxes(
    model: Model,
    images: Images = None,
    labels: Labels = None,
    voc: VOC = None,
    cub: CUB = None,
    split: Split = None,
    classes: Classes = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Box threshold for Top-1, Top-5 and GT-known, as a share of the map's range (default: the model's).",
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
    """Measure localisation: a box per image, from the map of its class.

    Top-1 and Top-5 also require the model to rank the true class among its first 1 or 5.
    """
    from crt.evaluate import measure_boxes, report, sheets
    from crt.evaluate import record as records

    screen.check_outputs(plot, json=record, worst=worst)
    levels = screen.numbers(thresholds, "--thresholds", "0:0.99:0.01")
    source = Source(images, labels, voc, cub, split or ("test" if cub else None))
    data = source.load(class_list(classes))
    target = find_device(device)
    network = load_model(model, target)
    extractor, refiner = make_extractor(network, batch_size, scales, flip), load_refiner(refine, network, target)
    share, rule = (network.seed_threshold, "the model's") if threshold is None else (threshold, "given")
    with autocast(target, bf16):
        found = measure_boxes(
            extractor, data, share, thresholds=levels, square=square, refiner=refiner, progress=progress_bar
        )
    fixed, curve = found.localisation.compute(), found.curve.compute()
    peak = "best on this list" if len(levels) > 1 else "given"
    resolution = f"photos seen at {square} x {square}" if square else "photos' own resolution"
    title = (
        f"{model}{name_refiner(refine)} on {source.title} of {source.root} ({len(data)} images, {resolution}), "
        f"threshold {report.level(share)} ({rule}), {screen.box_scores(fixed, curve, peak)}"
    )
    per_class = screen.per_class(data, found)
    screen.show(title, per_class, data.class_names)
    low = report.worst([sample.name for sample in data], found.overlaps)
    ious = [f"{x:g}" for x in found.curve.ious.tolist()]
    records.write_record(
        record,
        measure="localisation",
        model=model,
        refiner=refine,
        root=source.root,
        list=source.split,
        photos=len(data),
        resolution=resolution,
        **records.seen_by(extractor, bf16),
        threshold_rule=rule,
        threshold=share,
        iou=found.localisation.iou,
        **{name: float(value) for name, value in fixed.items()},
        max_box_acc=dict(zip(ious, curve["max_box_acc"].tolist(), strict=True)),
        max_box_acc_threshold=dict(zip(ious, [round(t, 6) for t in curve["threshold"].tolist()], strict=True)),
        max_box_acc_rule=peak,
        max_box_acc_v2=float(curve["max_box_acc_v2"]),
        curve={report.level(t): row for t, row in zip(levels, curve["box_acc"].tolist(), strict=True)},
        classes={
            name: {key: records.share(v[i]) for key, v in per_class.items()} for i, name in enumerate(data.class_names)
        },
        worst=[{"name": photo, "iou": records.share(score)} for _, photo, score in low],
    )
    curves = dict(zip([f"BoxAcc, IoU {iou}" for iou in ious], curve["box_acc"].T.tolist(), strict=True))
    report.write_plot(plot, title, "threshold (share of the map's range)", levels, curves)
    rows = sheets.box_rows(data, low, found.boxes)
    report.write_sheet(worst, title_worst(low, title), rows, columns=5, width=230)
