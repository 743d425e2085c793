"""Writes the tables of docs/results.md and README.md from the records in docs/records/.

python benchmarks/results.py

A page has a table where it has the marks `<!-- NAME -->` and `<!-- /NAME -->`, NAME being one of `TABLES`.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "records"
PAGES = [ROOT / "docs" / "results.md", ROOT / "README.md"]
MISSING = "Not measured yet."
LISTS = {
    "train_allclass": "balanced over the 20 classes",
    "train": "skewed to animals",
    "val_animals": "photos of animals",
}
REFINERS = {"none": "seed", "pamr": "PAMR", "crf": "CRF", "attention": "attention", "irn_lite0": "random walk (IRN)"}


def records(pattern: str = "seed*.json") -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(RECORDS.glob(pattern))]


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [columns, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


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
    return markdown(columns, rows) if rows else MISSING


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


def errors() -> str:
    """Where refined masks are wrong, from the record of benchmarks/sheet.py: by class, then groups of photos."""
    found = records("masks_pamr_train_allclass.json")
    if not found:
        return MISSING
    r = found[0]
    classes = sorted(r["iou_fp_fn"].items(), key=lambda entry: entry[1][0])
    rows = [(name, *(percent(share) for share in shares)) for name, shares in classes]
    groups = [
        *((f"classes in the photo: {n}{' or more' if n == '3' else ''}", *g) for n, g in r["by_classes"].items()),
        *((f"share that objects cover: {size}", *g) for size, g in r["by_size"].items()),
    ]
    lists = [(title, str(photos), percent(miou)) for title, photos, miou in groups]
    what = f"`{r['model']}`, {REFINERS[r['refiner']]}, threshold {r['threshold']:.2f} (best on the list)"
    note = f"{what}; `{r['list']}`, {r['photos']} photos."
    first = markdown(("class", "IoU", "too much (FP)", "missed (FN)"), rows)
    return f"{note}\n\n{first}\n\n{markdown(('photos', 'number', 'mean of their mIoU'), lists)}"


TABLES: dict[str, Callable[[], str]] = {
    "seeds": seeds,
    "ablation": ablation,
    "refiners": refiners,
    "errors": errors,
    "random_walk": random_walk,
    "threshold_curve": threshold_curve,
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
    for page in PAGES:
        page.write_text(written(page.read_text()))


if __name__ == "__main__":
    main()
