"""The seed curve over thresholds in one pass, against a confusion matrix for each threshold.

python benchmarks/threshold_curve.py --json docs/records/threshold_curve.json

Synthetic photos of VOC's size and number of classes, the same for both ways; the two ways alternate.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from crt.cam import mask_from_cam
from crt.evaluate.record import write_record
from crt.metrics import SeedCurve
from crt.metrics.mask_iou import confusion_matrix, mean_iou

CLASSES, SIZE = 20, (375, 500)


def photo(number: int) -> tuple[Tensor, list[int], Tensor]:
    """Smooth maps of one to three classes, and a truth with ignored pixels."""
    random = torch.Generator().manual_seed(number)
    labels = sorted(torch.randperm(CLASSES, generator=random)[: 1 + number % 3].tolist())
    coarse = torch.rand(len(labels) + 1, 24, 32, generator=random)
    fine = F.interpolate(coarse[None], SIZE, mode="bilinear", align_corners=False)[0]
    values = torch.tensor([0, *(i + 1 for i in labels)])
    truth = values[fine.argmax(dim=0)].to(torch.uint8)
    truth[:8] = 255
    return fine[1:].contiguous(), labels, truth


def one_pass(photos: list, thresholds: list[float]) -> Tensor:
    curve = SeedCurve(CLASSES, thresholds)
    for maps, labels, truth in photos:
        curve.update(maps, labels, truth)
    return curve.compute()


def each_threshold(photos: list, thresholds: list[float]) -> Tensor:
    confusion = torch.zeros(len(thresholds), CLASSES + 1, CLASSES + 1, dtype=torch.int64)
    for maps, labels, truth in photos:
        for place, threshold in enumerate(thresholds):
            confusion[place] += confusion_matrix(mask_from_cam(maps, labels, threshold), truth, CLASSES)
    return mean_iou(confusion)


def measure(count: int, thresholds: list[float], rounds: int, chunk: int) -> dict[str, list[float]]:
    """Seconds of each round and way; photos are made ``chunk`` at a time, outside the clock."""
    ways = {"one_pass": one_pass, "each_threshold": each_threshold}
    seconds: dict[str, list[float]] = {name: [0.0] * rounds for name in ways}
    for start in range(0, count, chunk):
        photos = [photo(number) for number in range(start, min(start + chunk, count))]
        for turn in range(rounds):
            found = {}
            for name in list(ways) if turn % 2 else list(ways)[::-1]:
                began = time.perf_counter()
                found[name] = ways[name](photos, thresholds)
                seconds[name][turn] += time.perf_counter() - began
            torch.testing.assert_close(found["one_pass"], found["each_threshold"])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--thresholds", type=int, default=20, help="how many, between 0 and 1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=50, help="photos held at once")
    parser.add_argument("--json", type=Path, help="write the record here")
    options = parser.parse_args()
    thresholds = [(i + 1) / (options.thresholds + 1) for i in range(options.thresholds)]
    seconds = measure(options.photos, thresholds, options.rounds, options.chunk)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["one_pass"] / medians["each_threshold"]
    print(
        f"{options.photos} photos of {SIZE[0]} x {SIZE[1]}, {options.thresholds} thresholds, "
        f"median of {options.rounds} rounds: one pass {medians['one_pass']:.1f} s, "
        f"each threshold {medians['each_threshold']:.1f} s, ratio {ratio:.3f}"
    )
    write_record(
        options.json,
        measure="seed curve, seconds",
        photos=options.photos,
        size=SIZE,
        classes=CLASSES,
        thresholds=options.thresholds,
        seconds=seconds,
        medians=medians,
        ratio=ratio,
    )


if __name__ == "__main__":
    main()
