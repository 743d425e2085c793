"""Writes the tables of measured seeds into docs/results.md and README.md, from the records in docs/records/.

python benchmarks/results.py
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / "results.md", ROOT / "README.md"]
MARKS = ("<!-- seeds -->", "<!-- /seeds -->")
LISTS = {
    "train_allclass": "balanced over the 20 classes",
    "train": "skewed to animals",
    "val_animals": "photos of animals",
}


def records() -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "records").glob("seed*.json"))]


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


def main() -> None:
    block = f"{MARKS[0]}\n\n{table()}\n\n{MARKS[1]}"
    for page in PAGES:
        page.write_text(re.sub(f"{MARKS[0]}.*?{MARKS[1]}", lambda _: block, page.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
