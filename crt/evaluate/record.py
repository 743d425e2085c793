"""The JSON record beside every number: what was measured, of what, with what, where."""

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from crt._files import whole_file
from crt.cam import CAMExtractor

__all__ = ["make_record", "seen_by", "share", "write_record"]


def make_record(**fields: Any) -> dict[str, Any]:
    """``fields`` with the commit, the versions and the machine they were measured on."""
    return {
        **fields,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
    }


def write_record(path: Path | None, **fields: Any) -> None:
    """Writes ``make_record(**fields)`` as JSON, whole or not at all; None writes nothing."""
    if path is not None:
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(make_record(**fields), indent=2, allow_nan=False) + "\n")


def seen_by(extractor: CAMExtractor, bf16: bool) -> dict[str, Any]:
    """For a record: how photos were seen."""
    settings = {name: getattr(extractor, name) for name in ("scales", "flip", "stride", "max_side")}
    return {**settings, "bf16": bf16}


def share(value: float) -> float | None:
    """For a record: JSON knows no NaN."""
    return None if value != value else round(value, 9)


def _commit() -> str | None:
    """The commit of the checkout this package runs from, "+changes" if files differ; None for an installed package."""
    here = Path(__file__).parent
    try:
        _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
