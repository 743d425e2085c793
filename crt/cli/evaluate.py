"""``crt eval``: measuring."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from crt.cli import report as screen
from crt.cli.common import (
    BatchSize,
    BFloat16,
    Device,
    Flip,
    Model,
    Preset,
    Refine,
    Scales,
    Stride,
    autocast,
    load_model,
    load_refiner,
    make_extractor,
    one_line_errors,
    progress_bar,
)

app = typer.Typer(help="Measure.", no_args_is_help=True)

Root = Annotated[Path, typer.Option(help="Folder in the VOC layout.")]
List = Annotated[str, typer.Option("--list", help="Name of a list in ImageSets/Segmentation.")]
Record = Annotated[Path | None, typer.Option("--json", help="Write the record here.")]
Plot = Annotated[Path | None, typer.Option(help="Draw the curve here, as a PNG (extra `eval`).")]
Worst = Annotated[Path | None, typer.Option(help="Write the twenty worst photos here, as a contact sheet (PNG).")]


@app.callback()
def _group() -> None:
    """Measure."""


@app.command("cam")
def eval_cam(
    root: Root,
    split: List,
    model: Annotated[
        str | None, typer.Option(help="A name of `crt models`, hf-hub:ORG/NAME or local-dir:PATH; none: crt_vit_t16.")
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(help="Measure saved maps instead: a folder of NAME.cam.safetensors, as `crt cam` writes them."),
    ] = None,
    preset: Preset = "fast",
    scales: Scales = None,
    flip: Flip = None,
    stride: Stride = None,
    refine: Refine = "none",
    thresholds: Annotated[
        str, typer.Option(help="Background scores: FIRST:LAST:STEP, or one number to measure at that alone.")
    ] = "0.02:0.60:0.02",
    bf16: BFloat16 = False,
    device: Device = "cpu",
    batch_size: BatchSize = 16,
    record: Record = None,
    plot: Plot = None,
    worst: Worst = None,
) -> None:
    """mIoU of seeds, or of refined maps, on a list, with the photos' own labels, at the best background threshold."""
    with one_line_errors():
        from crt.data import VOC_CLASSES, ImageDataset
        from crt.evaluate import measure_seeds, report, seeds_of_folder, seeds_of_model, sheets
        from crt.evaluate import record as records
        from crt.metrics import error_rates, iou_per_class

        screen.check_outputs(plot, json=record, worst=worst)
        if maps is not None and (model is not None or refine != "none"):
            raise ValueError("give either --model or --maps; --refine is for a model's maps.")
        levels = screen.numbers(thresholds, "--thresholds", "0.02:0.6:0.02")
        data, name = ImageDataset.from_voc(root, split, masks=True), model or "crt_vit_t16"
        device = device if maps is None else "cpu"
        extractor: Any = None
        if maps is None:
            network = load_model(name, device)
            extractor = make_extractor(network, batch_size, scales, flip, stride, preset)
            seeds: Any = partial(seeds_of_model, extractor, refiner=load_refiner(refine, network, device))
        else:
            seeds = partial(seeds_of_folder, maps)
        with autocast(device, bf16):
            found = measure_seeds(seeds(data), data, levels, progress=progress_bar)
        threshold, best = found.curve.best()
        curve = found.curve.compute().view(-1)
        place = int(curve.argmax())
        confusion = found.curve.confusion()[place]
        iou, (fp, fn) = iou_per_class(confusion), error_rates(confusion)
        rule = "best on this list" if len(levels) > 1 else "given"
        labels = "their own labels" if maps is None else "the labels saved with the maps"
        kind = "seed mIoU" if refine == "none" else "refined mIoU"
        source = f"{name}{_after(refine)}" if maps is None else maps
        title = (
            f"{kind} {100 * best:.2f} of {source} on {split} ({len(data)} photos, {labels}, "
            f"masks' resolution), background threshold {report.level(threshold)} ({rule}); "
            f"over the classes FP {report.percent(float(fp[1:].nanmean()))}, "
            f"FN {report.percent(float(fn[1:].nanmean()))}"
        )
        names = ["background", *VOC_CLASSES]
        screen.show(title, {"IoU": iou.tolist(), "FP": fp.tolist(), "FN": fn.tolist()}, names)
        low = report.worst([sample.name for sample in data], found.photos[:, place])
        records.write_record(
            record,
            measure=kind,
            **({"model": name, "refiner": refine} if maps is None else {"maps": maps.resolve().name}),
            root=root.resolve().name,
            list=split,
            photos=len(data),
            labels=labels,
            resolution="masks'",
            **(records.seen_by(extractor, bf16) if maps is None else {}),
            threshold_rule=rule,
            threshold=round(threshold, 6),
            miou=records.share(best),
            curve={report.level(t): records.share(miou) for t, miou in zip(levels, curve.tolist(), strict=True)},
            **_class_fields(names, iou=iou, fp=fp, fn=fn),
            worst=[{"name": photo, "miou": records.share(score)} for _, photo, score in low],
        )
        report.write_plot(plot, title, "background threshold", levels, {kind: curve.tolist()})
        rows = sheets.seed_rows(data, low, seeds, threshold)
        with autocast(device, bf16):
            report.write_sheet(worst, _worst_title(low, title), rows, columns=2, width=600)


@app.command("masks")
def eval_masks(
    root: Root,
    split: List,
    masks: Annotated[Path, typer.Option(help="Folder of the masks to measure: NAME.png, or NAME.mask.png.")],
    record: Record = None,
    worst: Worst = None,
) -> None:
    """mIoU and boundary IoU of a folder of masks on a list."""
    with one_line_errors():
        from crt.data import VOC_CLASSES, ImageDataset
        from crt.evaluate import measure_masks, report, sheets
        from crt.evaluate import record as records

        screen.check_outputs(json=record, worst=worst)
        data = ImageDataset.from_voc(root, split, masks=True)
        found = measure_masks(masks, data, progress=progress_bar)
        scores, edges = found.masks.compute(), found.boundaries.compute()
        fp, fn = (report.percent(float(scores[name][1:].nanmean())) for name in ("fp", "fn"))
        title = (
            f"mIoU {100 * scores['miou']:.2f}, boundary IoU {100 * edges['miou']:.2f} of {masks} on {split} "
            f"({len(data)} photos, masks' resolution), no threshold; over the classes FP {fp}, FN {fn}"
        )
        names = ["background", *VOC_CLASSES]
        columns = {"IoU": scores["iou"], "FP": scores["fp"], "FN": scores["fn"], "boundary IoU": edges["iou"]}
        screen.show(title, {column: values.tolist() for column, values in columns.items()}, names)
        low = report.worst([sample.name for sample in data], found.photos)
        records.write_record(
            record,
            measure="mask mIoU",
            masks=masks.resolve().name,
            root=root.resolve().name,
            list=split,
            photos=len(data),
            resolution="masks'",
            threshold_rule="none",
            miou=records.share(float(scores["miou"])),
            boundary_miou=records.share(float(edges["miou"])),
            boundary_ratio=found.boundaries.ratio,
            **_class_fields(names, iou=scores["iou"], fp=scores["fp"], fn=scores["fn"], boundary_iou=edges["iou"]),
            worst=[{"name": photo, "miou": records.share(score)} for _, photo, score in low],
        )
        rows = sheets.mask_rows(data, low, masks)
        report.write_sheet(worst, _worst_title(low, title), rows, columns=2, width=600)


@app.command("boxes")
def eval_boxes(
    root: Annotated[Path, typer.Option(help="Folder in the layout of CUB-200-2011.")],
    model: Model,
    split: Annotated[str, typer.Option("--list", help="train or test.")] = "test",
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of a map's range, for Top-1, Top-5 and GT-known; none: the model's."),
    ] = None,
    thresholds: Annotated[
        str, typer.Option(help="The same for MaxBoxAcc, which takes the best: FIRST:LAST:STEP.")
    ] = "0:0.99:0.01",
    square: Annotated[
        int | None, typer.Option(min=16, help="See photos resized to this many pixels a side (usual: 224).")
    ] = None,
    scales: Scales = "1",
    flip: Flip = True,
    refine: Refine = "none",
    bf16: BFloat16 = False,
    device: Device = "cpu",
    batch_size: BatchSize = 16,
    record: Record = None,
    plot: Plot = None,
    worst: Worst = None,
) -> None:
    """Localisation on a list: boxes of the maps of the photos' own classes, Top-k by the model's own classification."""
    with one_line_errors():
        from crt.data import ImageDataset
        from crt.evaluate import measure_boxes, report, sheets
        from crt.evaluate import record as records

        screen.check_outputs(plot, json=record, worst=worst)
        levels, data = screen.numbers(thresholds, "--thresholds", "0:0.99:0.01"), ImageDataset.from_cub(root, split)
        network = load_model(model, device)
        extractor, refiner = make_extractor(network, batch_size, scales, flip), load_refiner(refine, network, device)
        share, rule = (network.seed_threshold, "the model's") if threshold is None else (threshold, "given")
        with autocast(device, bf16):
            found = measure_boxes(
                extractor, data, share, thresholds=levels, square=square, refiner=refiner, progress=progress_bar
            )
        fixed, curve = found.localisation.compute(), found.curve.compute()
        peak = "best on this list" if len(levels) > 1 else "given"
        resolution = f"photos seen at {square} x {square}" if square else "photos' own resolution"
        percent = {name: report.percent(float(value), 2) for name, value in fixed.items()}
        best = float(curve["max_box_acc"][1])
        title = (
            f"{model}{_after(refine)} on {split} of {root.resolve().name} ({len(data)} photos, {resolution}), "
            f"threshold {report.level(share)} ({rule}), IoU 0.5: GT-known {percent['gt_known']}, "
            f"localisation Top-1 {percent['top1_loc']}, Top-5 {percent['top5_loc']}; "
            f"classification Top-1 {percent['top1_cls']}, Top-5 {percent['top5_cls']}; "
            f"MaxBoxAcc {100 * best:.2f} at {report.level(float(curve['threshold'][1]))} ({peak}), "
            f"MaxBoxAccV2 {100 * float(curve['max_box_acc_v2']):.2f} (each IoU's best on this list)"
        )
        per_class = _per_class(data, found)
        screen.show(title, per_class, data.class_names)
        low = report.worst([photo.name for photo in data.samples], found.overlaps)
        ious = [f"{x:g}" for x in found.curve.ious.tolist()]
        records.write_record(
            record,
            measure="localisation",
            model=model,
            refiner=refine,
            root=root.resolve().name,
            list=split,
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
                name: {key: records.share(values[i]) for key, values in per_class.items()}
                for i, name in enumerate(data.class_names)
            },
            worst=[{"name": photo, "iou": records.share(score)} for _, photo, score in low],
        )
        curves = {f"BoxAcc, IoU {iou}": values for iou, values in zip(ious, curve["box_acc"].T.tolist(), strict=True)}
        report.write_plot(plot, title, "threshold (share of the map's range)", levels, curves)
        rows = sheets.box_rows(data, low, found.boxes)
        report.write_sheet(worst, _worst_title(low, title), rows, columns=5, width=230)


def _after(refine: str) -> str:
    return "" if refine == "none" else f" refined by {refine}"


def _worst_title(low: Sequence[Any], title: str) -> str:
    return f"The worst {len(low)} photos. {title}"


def _class_fields(names: list[str], **values: Any) -> dict[str, Any]:
    """``classes``: {name: {measure: share or None}}."""
    from crt.evaluate import record as records

    listed = {key: value.tolist() for key, value in values.items()}
    return {"classes": {n: {key: records.share(row[i]) for key, row in listed.items()} for i, n in enumerate(names)}}


def _per_class(data: Any, found: Any) -> dict[str, list[float]]:
    """Each of ``Localisation.names``, class by class; NaN for a class without photos."""
    import torch

    labels = torch.tensor([photo.labels[0] for photo in data.samples])
    rows = [found.outcomes[labels == label].double().mean(dim=0) for label in range(len(data.class_names))]
    return {name: [float(row[i]) for row in rows] for i, name in enumerate(found.localisation.names)}
