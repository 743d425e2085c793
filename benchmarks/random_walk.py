"""Times the sparse random walk against a dense one (N x N matrix, squared 8 times) in one run, and its memory.

python benchmarks/random_walk.py --json FILE

Both start from the same boundary and end at the same walked maps; they take turns, after a warm-up, and the medians
are compared.  The dense walk on 94 x 125 cells (a photo of 500 x 375) takes minutes and runs once.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _timing import peak_memory
from torch import Tensor

from crt.cam.paths import displacements, path_affinity
from crt.evaluate.record import write_record
from crt.refine.random_walk import random_walk

COMPARED, LARGE = [(47, 63), (94, 125)], [(250, 250), (500, 500)]
MODES = {"exact": None, "1e-6": 1e-6}


def maps(h: int, w: int, classes: int) -> tuple[Tensor, Tensor]:
    """CAMs (1, k, h, w) and a boundary (1, 1, h, w): noise, with the closed outlines of a few regions."""
    generator = torch.Generator().manual_seed(0)
    boundary = torch.rand(1, 1, h, w, generator=generator) ** 4
    boundary[..., h // 3, : w // 2] = boundary[..., : h // 3, w // 2] = 0.95
    return torch.rand(1, classes, h, w, generator=generator), boundary


def dense_walk(cam: Tensor, boundary: Tensor) -> Tensor:
    """256 steps as the reference takes them: the transition matrix of all pairs of cells, squared 8 times, float32."""
    h, w = cam.shape[-2:]
    affinity = path_affinity(boundary, 5)[0] ** 10
    matrix, cells = torch.eye(h * w), torch.arange(h * w).view(h, w)
    for pairs, (dy, dx) in zip(affinity, displacements(5), strict=True):
        columns = slice(max(0, -dx), w - max(0, dx))
        here = cells[: h - dy, columns].flatten()
        there, values = here + dy * w + dx, pairs[: h - dy, columns].flatten()
        matrix[here, there] = matrix[there, here] = values
    matrix /= matrix.sum(dim=0)
    for _ in range(8):
        matrix = matrix @ matrix
    return ((cam * (1 - boundary)).flatten(2) @ matrix).view_as(cam)


def seconds(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


def compare(h: int, w: int, classes: int, repeats: int, dense: str) -> dict[str, Any]:
    """Medians of both, in turns; ``dense`` is "repeat", "once" or "skip"."""
    cam, boundary = maps(h, w, classes)
    times: dict[str, list[float]] = {"dense": [], **{mode: [] for mode in MODES}}
    results = {}
    for repeat in range(-1, repeats):
        if dense == "repeat" or (dense == "once" and repeat == 0):
            taken, results["dense"] = seconds(lambda: dense_walk(cam, boundary))
            times["dense"] += [taken] * (repeat >= 0)
        for mode, tolerance in MODES.items():
            taken, results[mode] = seconds(lambda t=tolerance: random_walk(cam, boundary, tolerance=t))
            times[mode] += [taken] * (repeat >= 0)
    row: dict[str, Any] = {"cells": [h, w], "classes": classes, "repeats": repeats}
    row["seconds"] = {name: statistics.median(values) for name, values in times.items() if values}
    if times["dense"]:
        row["times_faster"] = {mode: row["seconds"]["dense"] / row["seconds"][mode] for mode in MODES}
        top = results["dense"].abs().max()
        row["relative_error"] = {mode: float((results[mode] - results["dense"]).abs().max() / top) for mode in MODES}
        row["dense_matrices_mb"] = 2 * 4 * (h * w) ** 2 / 1e6
    row["peak_extra_mb"] = {mode: peak(h, w, classes, mode) for mode in MODES}
    return row


def peak(h: int, w: int, classes: int, mode: str) -> float:
    """Peak resident memory of a walk beyond what its process held before it, in a fresh process, in MB."""
    command = [sys.executable, __file__, "--classes", str(classes), "--peak", str(h), str(w), mode]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(h: int, w: int, classes: int, mode: str) -> None:
    cam, boundary = maps(h, w, classes)
    random_walk(cam[..., :9, :9], boundary[..., :9, :9], tolerance=MODES[mode])
    print(peak_memory(lambda: random_walk(cam, boundary, tolerance=MODES[mode]))["beyond_mb"])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the record")
    parser.add_argument("--classes", type=int, default=2, help="maps per photo")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--skip-dense-large", action="store_true", help="no dense walk on 94 x 125 cells")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        h, w, mode = arguments.peak
        print_peak(int(h), int(w), arguments.classes, mode)
        return
    rows = []
    for size in COMPARED + LARGE:
        dense = "repeat" if size == COMPARED[0] else "once" if size == COMPARED[1] else "skip"
        if dense == "once" and arguments.skip_dense_large:
            dense = "skip"
        repeats = 1 if size in LARGE else arguments.repeats
        rows.append(compare(*size, arguments.classes, repeats, dense))
        print(json.dumps(rows[-1]), flush=True)
    write_record(arguments.json, measured="random walk, radius 5, beta 10, 256 steps", walks=rows)


if __name__ == "__main__":
    main()
