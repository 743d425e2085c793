"""Writes the tables of docs/results.md, docs/performance.md and README.md from the records in docs/records/.

python benchmarks/results.py

A page has a table where it has the marks `<!-- NAME -->` and `<!-- /NAME -->`, NAME being one of `TABLES`.
"""

import re
from collections.abc import Callable

from _speed import (
    changes,
    equality,
    memory,
    pipeline,
    random_walk,
    rounding,
    seen_whole,
    shares,
    starting,
    threshold_curve,
    throughput,
    tradeoff,
)
from _tables import MISSING, ROOT, machine, markdown, percent, preset_of, records

PAGES = [ROOT / "docs" / "results.md", ROOT / "README.md"]
SPEED = ROOT / "docs" / "performance.md"
LISTS = {
    "train_allclass": "balanced over the 20 classes",
    "train": "skewed to animals",
    "val_animals": "photos of animals",
}
REFINERS = {"none": "seed", "pamr": "PAMR", "crf": "CRF", "attention": "attention", "irn_lite0": "random walk (IRN)"}


def seen_as(r: dict) -> str:
    """The preset, or the scales, with which a record's photos were seen."""
    if name := preset_of(r):
        return f"`{name}`"
    return f"scales {', '.join(f'{scale:g}' for scale in r['scales'])}, {'with' if r['flip'] else 'no'} mirror"


def chosen_threshold(model: str) -> str:
    """The background threshold that is best on `train`, at the model's first measured scales there."""
    curve = next(r["curve"] for r in records() if r["list"] == "train" and r["model"] == model)
    return max(curve, key=curve.__getitem__)


def seeds() -> str:
    """A row a record of `crt eval cam`."""
    rows = []
    for r in sorted(records(), key=lambda r: (r["model"], len(r["scales"]), list(LISTS).index(r["list"]))):
        chosen = chosen_threshold(r["model"])
        of_train = f"**{percent(r['curve'][chosen])}** at {float(chosen):.2f}"
        own = f"{percent(r['miou'])} at {r['threshold']:.2f}"
        photos = f"`{r['list']}` ({r['photos']}; {LISTS[r['list']]})"
        rows.append((f"`{r['model']}`", photos, seen_as(r), of_train, own))
    columns = ("model", "list (photos)", "seen", "seed mIoU at the model's threshold")
    return markdown((*columns, "best on the list itself"), rows)


def masks(pattern: str = "ways_*.json") -> str:
    """A row a record of benchmarks/masks.py."""
    ways = {"seed": "seed", "seed_refined": "refined", "segment": "no labels", "segment_refined": "no labels, refined"}
    rows = [
        (
            f"`{r['model']}`",
            f"`{r['list']}` ({r['photos']}; {LISTS[r['list']]})",
            seen_as(r),
            *(f"**{percent(r['miou'][way])}**" for way in ways),
            "-" if r["map"] is None else percent(r["map"]),
        )
        for r in sorted(records(pattern), key=lambda r: (r["model"], list(LISTS).index(r["list"])))
    ]
    return markdown(("model", "list (photos)", "seen", *ways.values(), "mAP"), rows)


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


def frozen() -> str:
    """A row a record of benchmarks/frozen.py, the recipe first; the number in brackets is the difference to it."""
    found = {r["row"]: r for r in records("frozen_*.json")}
    if "recipe" not in found:
        return MISSING
    base = found["recipe"]
    rows = []
    for r in [base, *(r for name, r in found.items() if name != "recipe")]:
        own, gains = r["miou"], {way: 100 * (r["miou"][way] - base["miou"][way]) for way in r["miou"]}
        scores = [percent(own[way]) + ("" if r is base else f" ({gains[way]:+.1f})") for way in ("seed", "segment")]
        rows.append((r["title"], *scores))
    note = f"`{base['list']}`, {base['photos']} photos; trained on {base['photos_trained']}."
    return markdown(("row", "labels known", "no labels"), rows) + f"\n\n{note}"


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
    note = f"Seeds of `{one['model']}`, {seen_as(one)}. Peak memory on a photo of {size} pixels. "
    return f"{markdown(columns, rows)}\n\n{note}{machine(one)}."


def place_of(part: str) -> tuple[int, str]:
    names = list(REFINERS)
    return (names.index(part) if part in names else len(names), part)


def compared(record: dict | None, seed: dict) -> str:
    """mIoU and the gain over the seeds; they must be of the same maps."""
    if record is None:
        return "-"
    for name in ("model", "scales", "flip", "stride", "photos", "threshold_rule"):
        if record.get(name) != seed.get(name):
            raise ValueError(
                f"{record['refiner']} and the seeds differ in {name}: {record.get(name)}, {seed.get(name)}."
            )
    gain = 100 * (record["miou"] - seed["miou"])
    return percent(record["miou"]) + ("" if record is seed or record["refiner"] == "none" else f" ({gain:+.1f})")


def wsol() -> str:
    """A row a record of benchmarks/wsol.py, the bundled weights last."""
    names = ["top1_cls", "top5_cls", "top1_loc", "top5_loc", "gt_known", "max_box_acc", "max_box_acc_v2"]
    found = sorted(
        records("wsol_*.json"),
        key=lambda r: (r["run"] == "bundled", r["refiner"], r["recipe"]["cnn"] or "", r["recipe"]["num_passes"]),
    )
    rows = []
    for r in found:
        recipe = r["recipe"]
        weights = ("bundled" if r["run"] == "bundled" else "ablation", recipe["epochs"], recipe["num_passes"])
        how = ("yes" if recipe["cnn"] else "no", REFINERS[r["refiner"]])
        rows.append([*weights, *how, *(percent(r[name]) for name in names), f"{r['threshold']:.2f}"])
    scores = ["Top-1", "Top-5", "Top-1 loc.", "Top-5 loc.", "GT-known", "MaxBoxAcc", "MaxBoxAccV2"]
    return markdown(["weights", "epochs", "passes", "CNN branch", "maps", *scores, "threshold"], rows)


def errors() -> str:
    """Where refined masks are wrong, from the record of benchmarks/sheet.py: by class, then groups of photos."""
    found = records("masks_irn_lite0_train_allclass.json")
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
    "masks": masks,
    "seeds": seeds,
    "ablation": ablation,
    "frozen": frozen,
    "trial": lambda: masks("trial_*.json"),
    "refiners": refiners,
    "errors": errors,
    "random_walk": random_walk,
    "threshold_curve": threshold_curve,
    "wsol": wsol,
    "throughput": throughput,
    "equality": equality,
    "changes": changes,
    "shares": shares,
    "memory": memory,
    "pipeline": pipeline,
    "starting": starting,
    "tradeoff": tradeoff,
    "rounding": rounding,
    "seen_whole": seen_whole,
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
