"""Writes the tables of docs/results.md, docs/performance.md and README.md, from the records in docs/records/.

python benchmarks/results.py
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crt.cam import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / "results.md", ROOT / "README.md"]
SPEED = ROOT / "docs" / "performance.md"
LISTS = {
    "train_allclass": "balanced over the 20 classes",
    "train": "skewed to animals",
    "val_animals": "photos of animals",
}


def records(pattern: str = "seed*.json") -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "records").glob(pattern))]


def chosen_threshold(model: str) -> str:
    """The background threshold that is best on `train`, at the model's first measured scales there."""
    curve = next(r["curve"] for r in records() if r["list"] == "train" and r["model"] == model)
    return max(curve, key=curve.__getitem__)


def table() -> str:
    """A Markdown table, a row a record of `crt eval cam`."""
    rows = [
        "| model | list (photos) | scales, mirror | seed mIoU, threshold best on `train` | best on the list itself |",
        "|---|---|---|---|---|",
    ]
    for r in sorted(records(), key=lambda r: (r["model"], len(r["scales"]), list(LISTS).index(r["list"]))):
        scales = ", ".join(f"{scale:g}" for scale in r["scales"]) + (", yes" if r["flip"] else ", no")
        chosen = chosen_threshold(r["model"])
        of_train = f"**{100 * r['curve'][chosen]:.1f}** at {float(chosen):.2f}"
        own = f"{100 * r['miou']:.1f} at {r['threshold']:.2f}"
        rows.append(
            f"| `{r['model']}` | `{r['list']}` ({r['photos']}; {LISTS[r['list']]}) | {scales} | {of_train} | {own} |"
        )
    return "\n".join(rows)


def markdown(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table; a sentence where there is nothing to show yet."""
    names, lines = list(columns), [f"| {' | '.join(map(str, row))} |" for row in rows]
    if not lines:
        return "Not measured yet."
    return "\n".join([f"| {' | '.join(names)} |", "|" + "---|" * len(names), *lines])


def preset_of(r: dict) -> str | None:
    """The preset that a record of `tradeoff.py` measured, as presets are now."""
    return next(
        (name for name, settings in PRESETS.items() if json.loads(json.dumps(settings)) == r["extractor"]), None
    )


def machine(r: dict) -> str:
    return r.get("gpu") or f"{r['machine']['processor']}, {r['machine']['threads']} threads"


def throughput() -> str:
    """A row a way of each record of `cam_throughput.py`."""
    rows = []
    for r in records("throughput*.json"):
        for way, photos in r["photos_per_second"].items():
            rows.append(
                [
                    f"`{r['model']}`, passes {r['passes']}, scales {len(r['scales'])}, {machine(r)}",
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
        rows += [[what, machine(r), way, f"{photos:.3g}"] for way, photos in r["photos_per_second"].items()]
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
    names = [
        "setting",
        "tiles of 500 x 375",
        "photos/s",
        "times `paper`",
        "mIoU, own best threshold",
        "default threshold",
    ]
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


TABLES = {
    "seeds": table,
    "throughput": throughput,
    "equality": equality,
    "memory": memory,
    "pipeline": pipeline,
    "starting": starting,
    "tradeoff": tradeoff,
    "rounding": rounding,
}


def filled(text: str) -> str:
    """A page with its tables made anew."""
    for name, make in TABLES.items():
        block = f"<!-- {name} -->\n\n{make()}\n\n<!-- /{name} -->"
        text = re.sub(f"<!-- {name} -->.*?<!-- /{name} -->", lambda _, block=block: block, text, flags=re.DOTALL)
    return text


def main() -> None:
    for page in [*PAGES, SPEED]:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
