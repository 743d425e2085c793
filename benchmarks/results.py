"""Writes the tables of docs/results.md, docs/performance.md and README.md from the records in docs/records/.

python benchmarks/results.py

A page has a table where it has the marks `<!-- NAME -->` and `<!-- /NAME -->`, NAME being one of `TABLES`.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from crt.cam import PRESETS

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "records"
PAGES = [ROOT / "docs" / "results.md", ROOT / "README.md"]
SPEED = ROOT / "docs" / "performance.md"
MISSING = "Not measured yet."
LISTS = {
    "train_allclass": "balanced over the 20 classes",
    "train": "skewed to animals",
    "val_animals": "photos of animals",
}
REFINERS = {"none": "seed", "pamr": "PAMR", "crf": "CRF", "attention": "attention", "irn_lite0": "random walk (IRN)"}


def records(pattern: str = "seed*.json") -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(RECORDS.glob(pattern))]


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; a sentence where there is nothing to show yet."""
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in [columns, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]]) if len(lines) > 1 else MISSING


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def digits(value: float) -> str:
    """Three significant digits, no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 else f"{value:.4f}"


def machine(record: dict) -> str:
    """On what the seconds of a record were measured."""
    where = record["machine"]
    return f"{where['processor']}, {where['threads']} of {where['cores']} cores, torch {record['torch']}"


def chosen_threshold(model: str) -> str:
    """The background threshold that is best on `train`, at the model's first measured scales there."""
    curve = next(r["curve"] for r in records() if r["list"] == "train" and r["model"] == model)
    return max(curve, key=curve.__getitem__)


def seeds() -> str:
    """A row a record of `crt eval cam`."""
    rows = []
    for r in sorted(records(), key=lambda r: (r["model"], len(r["scales"]), list(LISTS).index(r["list"]))):
        scales = ", ".join(f"{scale:g}" for scale in r["scales"]) + (", yes" if r["flip"] else ", no")
        chosen = chosen_threshold(r["model"])
        of_train = f"**{percent(r['curve'][chosen])}** at {float(chosen):.2f}"
        own = f"{percent(r['miou'])} at {r['threshold']:.2f}"
        photos = f"`{r['list']}` ({r['photos']}; {LISTS[r['list']]})"
        rows.append((f"`{r['model']}`", photos, scales, of_train, own))
    columns = ("model", "list (photos)", "scales, mirror", "seed mIoU, threshold best on `train`")
    return markdown((*columns, "best on the list itself"), rows)


def ablation() -> str:
    """A row a record of benchmarks/ablation.py, simple to complete."""
    found = sorted(records("ablation_*.json"), key=lambda r: (r["tiling"], r["cnn"], r["coupling"], r["passes"]))
    rows = [
        (
            str(r["passes"]),
            "yes" if r["cnn"] else "no",
            f"{r['coupling']:g}",
            "yes" if r["tiling"] else "no",
            *(percent(r["miou"][name]) for name in LISTS),
            f"{r['threshold']:.2f}",
            percent(r["map_val_animals"]),
        )
        for r in found
    ]
    lists = [f"seed mIoU, `{name}`" for name in LISTS]
    columns = ["passes", "CNN branch", "coupling", "tiles", *lists, "threshold", "mAP, `val_animals`"]
    return markdown(columns, rows)


def refiners() -> str:
    """A row a refiner: its records of benchmarks/refiners.py, one a list, against those of the seeds."""
    found: dict[str, dict[str, dict]] = {}
    for r in records("refined_*.json"):
        found.setdefault(r["refiner"], {})[r["list"]] = r
    if "none" not in found:
        return MISSING
    seed = found["none"]
    lists, rows = [name for name in LISTS if name in seed], []
    for name in sorted(found, key=lambda name: (name.count("+"), [place_of(part) for part in name.split("+")])):
        own = found[name]
        any_one = own.get("train") or next(iter(own.values()))
        scores = [compared(own.get(split), seed[split]) for split in lists]
        cost = [f"{any_one['seconds_median']:.2f} ({any_one['seconds_mean']:.2f})", f"{any_one['peak_memory_mb']:.0f}"]
        title = " + ".join(REFINERS.get(part, f"`{part}`") for part in name.split("+"))
        rows.append((title, *scores, f"{any_one['threshold']:.2f}", *(["-", "-"] if name == "none" else cost)))
    one = seed[lists[0]]
    size = " x ".join(map(str, one["peak_memory_photo"]))
    columns = ["maps", *(f"mIoU, `{name}` ({seed[name]['photos']})" for name in lists)]
    columns += ["threshold", "s a photo, median (mean)", "peak memory, MB"]
    scales = ", ".join(f"{scale:g}" for scale in one["scales"])
    note = f"Seeds of `{one['model']}` at scales {scales} with mirror. Peak memory on a photo of {size} pixels. "
    return f"{markdown(columns, rows)}\n\n{note}{machine(one)}."


def place_of(part: str) -> tuple[int, str]:
    names = list(REFINERS)
    return (names.index(part) if part in names else len(names), part)


def compared(record: dict | None, seed: dict) -> str:
    """mIoU and the gain over the seeds; they must be of the same maps."""
    if record is None:
        return "-"
    for name in ("model", "scales", "flip", "photos", "threshold_rule"):
        if record[name] != seed[name]:
            raise ValueError(f"{record['refiner']} and the seeds differ in {name}: {record[name]}, {seed[name]}.")
    gain = 100 * (record["miou"] - seed["miou"])
    return percent(record["miou"]) + ("" if record is seed or record["refiner"] == "none" else f" ({gain:+.1f})")


def random_walk() -> str:
    """A row a grid of cells of benchmarks/random_walk.py."""
    found = records("random_walk.json")
    if not found:
        return MISSING
    rows = []
    for walk in found[0]["walks"]:
        (h, w), seconds, faster = walk["cells"], walk["seconds"], walk.get("times_faster", {})
        dense = f"{digits(seconds['dense'])} ({digits(walk['dense_matrices_mb'])} MB)" if "dense" in seconds else "-"
        row = [f"{h} x {w}", f"{4 * h} x {4 * w}", dense]
        for mode in ("exact", "1e-6"):
            row.append(digits(seconds[mode]) + (f" ({digits(faster[mode])} times)" if faster else ""))
        error = walk.get("relative_error")
        row.append("-" if error is None else ", ".join(f"{error[mode]:.0e}" for mode in ("exact", "1e-6")))
        row.append(", ".join(digits(walk["peak_extra_mb"][mode]) for mode in ("exact", "1e-6")))
        rows.append(row)
    columns = ["cells", "pixels", "dense, s (its matrices)", "sparse exact, s (faster)", "sparse to 1e-6, s (faster)"]
    return f"{markdown([*columns, 'error of both', 'peak memory of both, MB'], rows)}\n\n{machine(found[0])}."


def threshold_curve() -> str:
    """The one row of benchmarks/threshold_curve.py."""
    found = records("threshold_curve.json")
    if not found:
        return MISSING
    r = found[0]
    seconds = [digits(r["medians"][way]) for way in ("one_pass", "each_threshold")]
    row = [str(r["photos"]), " x ".join(map(str, r["size"])), str(r["thresholds"]), *seconds, f"{1 / r['ratio']:.1f}"]
    columns = ["photos", "pixels", "thresholds", "one pass, s", "a pass for each threshold, s", "times faster"]
    return f"{markdown(columns, [row])}\n\n{machine(r)}."


def preset_of(r: dict) -> str | None:
    """The preset that a record of `tradeoff.py` measured, as presets are now."""
    return next(
        (name for name, settings in PRESETS.items() if json.loads(json.dumps(settings)) == r["extractor"]), None
    )


def engine(r: dict) -> str:
    """What computed: the GPU, or the processor and its threads."""
    return r.get("gpu") or f"{r['machine']['processor']}, {r['machine']['threads']} threads"


def throughput() -> str:
    """A row a way of each record of `cam_throughput.py`."""
    rows = []
    for r in records("throughput*.json"):
        for way, photos in r["photos_per_second"].items():
            rows.append(
                [
                    f"`{r['model']}`, passes {r['passes']}, scales {len(r['scales'])}, {engine(r)}",
                    way.replace("plain", "plain baseline, float32").replace("limit", "timm's forward,"),
                    f"{photos:.3g}",
                    f"{r['tiles_per_second'][way]:.3g}",
                    f"{r['flop_per_second'][way] / 1e9:.3g}",
                    *(f"{r[name][way]:.2f}" if way in r[name] else "" for name in ("times_plain", "share_of_limit")),
                    f"{r['peak_memory'][way]['peak_mb']:.0f}" if way in r["peak_memory"] else "",
                ]
            )
    names = ["model, machine", "way", "photos/s", "tiles/s", "GFLOP/s", "times plain", "share of timm's", "peak MB"]
    return markdown(names, rows)


def equality() -> str:
    """The differences from the plain baseline."""
    rows = [
        [f"`{r['model']}`", check["passes"], check["align"], f"{check['relative_error']:.1e}"]
        for r in records("throughput*.json")
        for check in r["equality"]
    ]
    return markdown(["model", "passes", "alignment", "largest difference / largest value"], rows)


def memory() -> str:
    """A row a point of `cam_memory.py`."""
    rows = []
    for r in records("memory*.json"):
        for point in r["points"]:
            sizes = [f"{point['size']} x {point['size']}", point["batch"] or "all"]
            memory_of = [f"{point['beyond_mb']:.0f}", f"{point['peak_mb']:.0f}"]
            rows.append([point["way"], *sizes, point["photos"], *memory_of])
    return markdown(["way", "photo", "tiles at once", "photos", "MB beyond the loaded model", "MB in all"], rows)


def pipeline() -> str:
    """The records of `dataset.py` and `train_step.py`."""
    rows = []
    for r in [*records("dataset*.json"), *records("train_step*.json")]:
        what = f"`{r['preset']}`, {'photos of ' + r['list'] if 'list' in r else 'steps of ' + str(r['batch'])}"
        rows += [[what, engine(r), way, f"{photos:.3g}"] for way, photos in r["photos_per_second"].items()]
    return markdown(["what", "machine", "way", "photos/s"], rows)


def starting() -> str:
    """The records of `import_time.py` and `load_time.py`."""
    rows = [
        [r["measure"].split(",")[0], stage, f"{seconds:.2f}"]
        for r in [*records("import_time*.json"), *records("load_time*.json")]
        for stage, seconds in r["medians"].items()
    ]
    return markdown(["what", "stage", "seconds"], rows)


def tradeoff() -> str:
    """A row a setting of `tradeoff.py`, the slowest first."""
    found = sorted((r for r in records("tradeoff_*.json") if r["bf16"]), key=lambda r: r["photos_per_second"])
    paper = next((r["photos_per_second"] for r in found if r["setting"] == "paper"), None)
    rows = [
        [
            r["label"] if r["changes"] or preset_of(r) is None else f"**`{preset_of(r)}`**: {r['label']}",
            r["tiles"],
            f"{r['photos_per_second']:.3g}",
            f"{r['photos_per_second'] / paper:.1f}" if paper else "",
            f"{100 * r['miou']:.1f} at {r['threshold']:.2f}",
            f"{100 * r['miou_at_default']:.1f} at {r['default_threshold']:.2f}",
        ]
        for r in found
    ]
    names = ["setting", "tiles of 500 x 375", "photos/s", "times `paper`"]
    names += ["mIoU, own best threshold", "default threshold"]
    return markdown(names, rows)


def rounding() -> str:
    """Settings that `tradeoff.py` measured in bfloat16 and in float32."""
    both = {(r["setting"], r["bf16"]): r for r in records("tradeoff_*.json")}
    rows = []
    for name in sorted(name for name, bf16 in both if not bf16 and (name, True) in both):
        half, full = both[name, True], both[name, False]
        differences = [f"{100 * (half[key] - full[key]):+.2f}" for key in ("miou", "miou_at_default")]
        rows.append([f"`{name}`", *differences, f"{half['photos_per_second'] / full['photos_per_second']:.2f}"])
    return markdown(["setting", "mIoU, own best threshold", "default threshold", "times faster"], rows)


def wsol() -> str:
    """A row a record of benchmarks/wsol.py, the bundled weights last."""
    names = ["top1_cls", "top5_cls", "top1_loc", "top5_loc", "gt_known", "max_box_acc", "max_box_acc_v2"]
    found = sorted(records("wsol_*.json"), key=lambda r: (r["masks"], r["cnn"], r["passes"]))
    rows = []
    for r in found:
        runs = f"{' + '.join(str(recipe['epochs']) for recipe in r['recipes'])} epochs"
        row = ["labels, then masks" if r["masks"] else "labels", runs, r["passes"], "yes" if r["cnn"] else "no"]
        rows.append([*row, *(percent(r[name]) for name in names), f"{r['threshold']:.2f}"])
    scores = ["Top-1", "Top-5", "Top-1 loc.", "Top-5 loc.", "GT-known", "MaxBoxAcc", "MaxBoxAccV2"]
    return markdown(["trained on", "for", "passes", "CNN branch", *scores, "threshold"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "seeds": seeds,
    "ablation": ablation,
    "refiners": refiners,
    "random_walk": random_walk,
    "threshold_curve": threshold_curve,
    "wsol": wsol,
    "throughput": throughput,
    "equality": equality,
    "memory": memory,
    "pipeline": pipeline,
    "starting": starting,
    "tradeoff": tradeoff,
    "rounding": rounding,
}


def written(text: str) -> str:
    """The page with its tables as the records have them."""
    for name, table in TABLES.items():
        if f"<!-- {name} -->" in text:
            start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
            block = f"{start}\n\n{table()}\n\n{end}"
            text = re.sub(f"{start}.*?{end}", lambda _, block=block: block, text, flags=re.DOTALL)
    return text


def main() -> None:
    for page in [*PAGES, SPEED]:
        page.write_text(written(page.read_text()))


if __name__ == "__main__":
    main()
