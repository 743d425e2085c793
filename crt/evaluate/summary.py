"""What a measurement says: one sentence, a table with a row for each class, a record, curves and the worst photos."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from crt.data import ImageDataset
from crt.evaluate.boxes import BoxReport
from crt.evaluate.masks import MaskReport
from crt.evaluate.record import share, write_record
from crt.evaluate.report import level, percent, rules, worst, write_plot, write_sheet
from crt.evaluate.seeds import SeedReport
from crt.metrics.mask_iou import error_rates, iou_per_class

__all__ = ["Subject", "Summary", "summarize_boxes", "summarize_masks", "summarize_seeds", "summarize_segmentation"]


class Subject(NamedTuple):
    """What was measured on which data.

    Attributes:
        kind: what ``name`` is: a model, or a folder of maps or masks.
        name: the model's name or address, or the folder.
        root: name of the data set's folder.
        split: name of its list, or None.
        refiner: what the maps were refined by, or "none".
        seen: how photos were seen (``crt.evaluate.record.seen_by``).
    """

    kind: Literal["model", "maps", "masks"]
    name: str
    root: str
    split: str | None
    refiner: str = "none"
    seen: Mapping[str, Any] = {}

    @property
    def title(self) -> str:
        """The model or folder."""
        return self.name if self.refiner == "none" else f"{self.name} refined by {self.refiner}"

    @property
    def data(self) -> str:
        """The list, or the folder where there is none."""
        return self.split or self.root

    @property
    def fields(self) -> dict[str, Any]:
        """For records: what was measured, and on what."""
        own: dict[str, Any] = {self.kind: Path(self.name).resolve().name}
        if self.kind == "model":
            own = {"model": self.name, "refiner": self.refiner}
        return {**own, "root": self.root, "list": self.split}


@dataclasses.dataclass(frozen=True)
class Summary:
    """A measurement, ready to be shown and written.

    Attributes:
        title: all that must be known to read the numbers, in one sentence.
        names: names of the table's rows.
        columns: shares of each row, NaN where there is none.
        worst: place in the data set, name and score of the lowest scores, the lowest first.
        record: the record's fields.
        axis: what the curves run over.
        levels: the thresholds of the curves.
        curves: shares at each of them.
    """

    title: str
    names: Sequence[str]
    columns: Mapping[str, Sequence[float]]
    worst: Sequence[tuple[int, str, float]]
    record: Mapping[str, Any]
    axis: str = ""
    levels: Sequence[float] = ()
    curves: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)

    def write(self, record: Path | None, plot: Path | None = None) -> None:
        """Writes the record (JSON) and the curves (PNG); None leaves one out."""
        write_record(record, **self.record)
        write_plot(plot, self.title, self.axis, self.levels, self.curves)

    def write_worst(
        self,
        path: Path | None,
        rows: Iterable[tuple[str, Sequence[Image.Image]]],
        *,
        columns: int = 2,
        width: int = 600,
    ) -> None:
        """A contact sheet (PNG) of the worst photos; ``rows`` are those of ``crt.evaluate.sheets`` for ``worst``."""
        write_sheet(path, f"The worst {len(self.worst)} photos. {self.title}", rows, columns=columns, width=width)


def summarize_seeds(found: SeedReport, data: ImageDataset, about: Subject) -> Summary:
    """Of ``measure_seeds``: the scores of each class at the threshold that is best on this list."""
    (threshold, best), curve = found.curve.best(), found.curve.compute().view(-1)
    place = int(curve.argmax())
    confusion = found.curve.confusion()[place]
    iou, (fp, fn) = iou_per_class(confusion), error_rates(confusion)
    rule = _rule(curve)
    labels = "their own labels" if about.kind == "model" else "the labels saved with the maps"
    kind = "seed mIoU" if about.refiner == "none" else "refined mIoU"
    title = (
        f"{kind} {100 * best:.2f} of {about.title} on {about.data} ({len(data)} images, {labels}, masks' resolution), "
        f"background threshold {level(threshold)} ({rule}); {_errors(fp, fn)}; mIoU at {rules(found)}"
    )
    names, low = ["background", *data.class_names], worst([sample.name for sample in data], found.photos[:, place])
    levels = _rounded(found.curve.thresholds)
    record = {
        "measure": kind,
        **about.fields,
        "photos": len(data),
        "labels": labels,
        "resolution": "masks'",
        **about.seen,
        "threshold_rule": rule,
        "threshold": round(threshold, 6),
        "miou": share(best),
        "miou_by_rule": {rule: share(miou) for rule, miou in found.columns().items()},
        "fixed_threshold": None if found.fixed is None else _rounded(found.fixed.thresholds)[0],
        "curve": {level(t): share(miou) for t, miou in zip(levels, curve.tolist(), strict=True)},
        "classes": _by_class(names, iou=iou, fp=fp, fn=fn),
        "worst": _scores(low, "miou"),
    }
    columns = {"IoU": iou.tolist(), "FP": fp.tolist(), "FN": fn.tolist()}
    return Summary(title, names, columns, low, record, "background threshold", levels, {kind: curve.tolist()})


def summarize_masks(found: MaskReport, data: ImageDataset, about: Subject) -> Summary:
    """Of ``measure_masks``."""
    scores = found.masks.compute()
    title = (
        f"{_mask_scores(found)} of {about.title} on {about.data} ({len(data)} images, masks' resolution), "
        f"no threshold; {_errors(scores['fp'], scores['fn'])}"
    )
    how = {"resolution": "masks'", "threshold_rule": "none"}
    before = {"measure": "mask mIoU", **about.fields, "photos": len(data), **how}
    return _of_masks(found, data, title, before, boundary_ratio=found.boundaries.ratio)


def summarize_segmentation(
    found: MaskReport, data: ImageDataset, about: Subject, *, threshold: float | None, mean_ap: float | None
) -> Summary:
    """Of ``measure_segmentation``, with the mAP of the classes that the model predicts, if it was measured."""
    ranked = "" if mean_ap is None else f", mAP {100 * mean_ap:.2f}"
    refined = "" if about.refiner == "none" else f", refined by {about.refiner}"
    title = (
        f"{_mask_scores(found)}{ranked} of {about.name} on {about.data} "
        f"({len(data)} images, no labels, masks' resolution){refined}"
    )
    how = {"labels": "none", "seen": about.seen, "threshold": threshold}
    before = {"measure": "segmentation mIoU", **about.fields, "photos": len(data), **how}
    return _of_masks(found, data, title, before, map=None if mean_ap is None else share(mean_ap))


def summarize_boxes(
    found: BoxReport, data: ImageDataset, about: Subject, *, threshold_rule: str, square: int | None
) -> Summary:
    """Of ``measure_boxes``; ``threshold_rule`` says where the threshold comes from, ``square`` how photos were seen."""
    resolution = f"photos seen at {square} x {square}" if square else "photos' own resolution"
    fixed, curve = found.localization.compute(), found.curve.compute()
    (threshold,) = _rounded(found.localization.threshold)
    peak, levels = _rule(curve["box_acc"]), _rounded(found.curve.thresholds)
    ious = [f"{x:g}" for x in found.curve.ious.tolist()]
    title = (
        f"{about.title} on {about.data} of {about.root} ({len(data)} images, {resolution}), "
        f"threshold {level(threshold)} ({threshold_rule}), {_box_scores(fixed, curve, peak)}"
    )
    columns, low = _box_columns(found, data), worst([sample.name for sample in data], found.overlaps)
    record = {
        "measure": "localisation",
        **about.fields,
        "photos": len(data),
        "resolution": resolution,
        **about.seen,
        "threshold_rule": threshold_rule,
        "threshold": threshold,
        "iou": found.localization.iou,
        **{name: float(value) for name, value in fixed.items()},
        "max_box_acc": dict(zip(ious, curve["max_box_acc"].tolist(), strict=True)),
        "max_box_acc_threshold": dict(zip(ious, _rounded(curve["threshold"]), strict=True)),
        "max_box_acc_rule": peak,
        "max_box_acc_v2": float(curve["max_box_acc_v2"]),
        "curve": {level(t): row for t, row in zip(levels, curve["box_acc"].tolist(), strict=True)},
        "classes": _by_class(data.class_names, **columns),
        "worst": _scores(low, "iou"),
    }
    curves = dict(zip([f"BoxAcc, IoU {iou}" for iou in ious], curve["box_acc"].T.tolist(), strict=True))
    axis = "threshold (share of the map's range)"
    shown = {name: values.tolist() for name, values in columns.items()}
    return Summary(title, data.class_names, shown, low, record, axis, levels, curves)


def _of_masks(found: MaskReport, data: ImageDataset, title: str, before: dict[str, Any], **after: Any) -> Summary:
    """The summary of masks; ``before`` and ``after`` are the record's fields around the scores."""
    scores, edges = found.masks.compute(), found.boundaries.compute()
    names, low = ["background", *data.class_names], worst([sample.name for sample in data], found.photos)
    values = {"iou": scores["iou"], "fp": scores["fp"], "fn": scores["fn"], "boundary_iou": edges["iou"]}
    record = {
        **before,
        "miou": share(float(scores["miou"])),
        "boundary_miou": share(float(edges["miou"])),
        **after,
        "classes": _by_class(names, **values),
        "worst": _scores(low, "miou"),
    }
    columns = dict(zip(("IoU", "FP", "FN", "boundary IoU"), (v.tolist() for v in values.values()), strict=True))
    return Summary(title, names, columns, low, record)


def _rounded(thresholds: Tensor) -> list[float]:
    """float32 as it was given."""
    return [round(value, 6) for value in thresholds.tolist()]


def _rule(curve: Tensor) -> str:
    """How the threshold of the highest score was chosen."""
    return "best on this list" if len(curve) > 1 else "given"


def _errors(fp: Tensor, fn: Tensor) -> str:
    return f"over the classes FP {percent(float(fp[1:].nanmean()))}, FN {percent(float(fn[1:].nanmean()))}"


def _mask_scores(found: MaskReport) -> str:
    masks, edges = found.masks.compute()["miou"], found.boundaries.compute()["miou"]
    return f"mIoU {100 * masks:.2f}, boundary IoU {100 * edges:.2f}"


def _box_scores(fixed: Mapping[str, Tensor], curve: Mapping[str, Tensor], peak: str) -> str:
    shown = {name: percent(float(value), 2) for name, value in fixed.items()}
    return (
        f"IoU 0.5: GT-known {shown['gt_known']}, localization Top-1 {shown['top1_loc']}, Top-5 {shown['top5_loc']}; "
        f"classification Top-1 {shown['top1_cls']}, Top-5 {shown['top5_cls']}; "
        f"MaxBoxAcc {100 * float(curve['max_box_acc'][1]):.2f} at {level(float(curve['threshold'][1]))} ({peak}), "
        f"MaxBoxAccV2 {100 * float(curve['max_box_acc_v2']):.2f} (each IoU's best on this list)"
    )


def _box_columns(found: BoxReport, data: ImageDataset) -> dict[str, Tensor]:
    """Each of ``Localization.names``, class by class; NaN for a class without photos."""
    labels = torch.tensor([sample.labels[0] for sample in data])
    rows = [found.outcomes[labels == label].double().mean(dim=0) for label in range(len(data.class_names))]
    return dict(zip(found.localization.names, torch.stack(rows).unbind(dim=1), strict=True))


def _by_class(names: Sequence[str], **values: Tensor) -> dict[str, Any]:
    """{class: {measure: share, or None where there is none}}."""
    listed = {key: value.tolist() for key, value in values.items()}
    return {name: {key: share(row[i]) for key, row in listed.items()} for i, name in enumerate(names)}


def _scores(low: Sequence[tuple[int, str, float]], measure: str) -> list[dict[str, Any]]:
    return [{"name": name, measure: share(score)} for _, name, score in low]
