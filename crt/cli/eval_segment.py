"""``crt eval segment``: a model's masks without labels, against ground truth."""

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
    progress_bar,
)
from crt.cli.measured import Source, images_with_masks
from crt.cli.segment import make_segmenter

__all__ = ["eval_segment"]


def eval_segment(
    images: Images = None,
    labels: Labels = None,
    voc: VOC = None,
    cub: CUB = None,
    split: Split = None,
    truth: Truth = None,
    classes: Classes = None,
    model: Model = DEFAULT_MODEL,
    refine: Refine = "none",
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Background score. Default: the model's.")
    ] = None,
    preset: Preset = None,
    scales: Scales = None,
    flip: Flip = None,
    stride: Stride = None,
    bf16: BFloat16 = False,
    device: Device = "auto",
    batch_size: BatchSize = 16,
    record: Annotated[Path | None, typer.Option("--json", help="Write all results to this file, as JSON.")] = None,
) -> None:
    """Measure a model's masks without labels: mIoU, boundary IoU, and mAP of the classes it predicts."""
    from crt.evaluate import measure_segmentation, report
    from crt.evaluate import record as records
    from crt.evaluate.classification import measure_classification

    screen.check_outputs(json=record)
    target = find_device(device)
    network: Any = load_model(model, target)
    source = Source(images, labels, voc, cub, split, truth)
    data = images_with_masks(source, class_list(classes) or network.class_names)
    segmenter, seen = make_segmenter(network, target, refine, threshold, preset, scales, flip, stride, batch_size)

    def predict(image: Any) -> Any:
        return network.segment(image, **seen)[0] if segmenter is None else segmenter(image)[0].mask

    mean_ap = None
    with autocast(target, bf16):
        found = measure_segmentation(predict, data, progress=progress_bar)
        if segmenter is not None and any(sample.labels for sample in data):
            ranked = measure_classification(segmenter.extractor, data, progress=progress_bar)
            mean_ap = float(ranked.compute()["map"])
    scores, edges = found.masks.compute(), found.boundaries.compute()
    title = (
        f"mIoU {100 * scores['miou']:.2f}, boundary IoU {100 * edges['miou']:.2f}"
        f"{'' if mean_ap is None else f', mAP {100 * mean_ap:.2f}'} of {model} on {source.title} "
        f"({len(data)} images, no labels, masks' resolution){'' if refine == 'none' else f', refined by {refine}'}"
    )
    names = ["background", *data.class_names]
    columns = {"IoU": scores["iou"], "FP": scores["fp"], "FN": scores["fn"], "boundary IoU": edges["iou"]}
    screen.show(title, {column: values.tolist() for column, values in columns.items()}, names)
    low = report.worst([sample.name for sample in data], found.photos)
    records.write_record(
        record,
        measure="segmentation mIoU",
        model=model,
        refiner=refine,
        root=source.root,
        list=source.split,
        photos=len(data),
        labels="none",
        seen={**seen, "bf16": bf16},
        threshold=threshold,
        miou=records.share(float(scores["miou"])),
        boundary_miou=records.share(float(edges["miou"])),
        map=None if mean_ap is None else records.share(mean_ap),
        **screen.class_fields(names, iou=scores["iou"], fp=scores["fp"], fn=scores["fn"], boundary_iou=edges["iou"]),
        worst=[{"name": photo, "miou": records.share(score)} for _, photo, score in low],
    )
