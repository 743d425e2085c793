"""What the tables of results.py are made with: records read, cells written."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crt.cam import PRESETS

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "records"
MISSING = "Not measured yet."


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


def preset_of(record: Mapping[str, Any]) -> str | None:
    """The preset whose scales, mirror and stride a record has, as presets are now."""
    seen = {key: record[key] for key in ("scales", "flip", "stride") if record.get(key) is not None}
    presets = json.loads(json.dumps(PRESETS))  # lists for tuples, as in a record
    tiled = {name: {key: value for key, value in way.items() if key != "tile"} for name, way in presets.items()}
    found = next((name for name, settings in tiled.items() if settings == seen), None)
    return found or (record["preset"] if record.get("preset") in presets else None)
