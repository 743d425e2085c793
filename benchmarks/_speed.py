"""The tables of seconds, photos a second and megabytes; results.py puts them into the pages."""

from _tables import MISSING, digits, machine, markdown, preset_of, records


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


def changes() -> str:
    """A row a change of `cam_changes.py`."""
    rows = [
        [name, f"{value:.2f}", f"{r['times_plain'][name]:.2f}", f"{r['largest_difference'][name]:.0e}"]
        for r in records("changes*.json")
        for name, value in r["medians"].items()
    ]
    return markdown(["change", "s a photo", "times plain", "largest difference of the maps"], rows)


def shares() -> str:
    """Where the library's time goes, by the same records."""
    rows = [
        [name, *(f"{100 * r['shares'][dtype][name]:.1f}" for dtype in ("float32", "bfloat16"))]
        for r in records("changes*.json")
        for name in r["shares"]["float32"]
    ]
    return markdown(["operators", "% of the time, float32", "bfloat16"], rows)


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


def _way(record: dict) -> str:
    """How `tradeoff.py` saw photos: the preset in bold, or the setting's name."""
    preset = None if record["changes"] else preset_of(record["extractor"])
    return f"{record['label']} (`{record['setting']}`)" if preset is None else f"**`{preset}`**: {record['label']}"


def tradeoff() -> str:
    """A row a setting of `tradeoff.py`, the slowest first."""
    found = sorted((r for r in records("tradeoff_*.json") if r["bf16"]), key=lambda r: r["photos_per_second"])
    paper = next((r["photos_per_second"] for r in found if r["setting"] == "paper"), None)
    rows = [
        [
            _way(r),
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


def seen_whole() -> str:
    """A row a setting of `tradeoff.py` with the S/16 model, the fastest first."""
    found = sorted(records("tradeoff_s16_*.json"), key=lambda r: -r["photos_per_second"])
    rows = [
        [
            _way(r),
            f"{r['photos_per_second']:.3g}",
            f"{100 * r['miou_at_default']:.1f}",
        ]
        for r in found
    ]
    if not found:
        return MISSING
    one = found[0]
    note = f"`{one['list']}`, one photo in {one['every']} ({one['photos']}), float32. {machine(one)}."
    return markdown(["how photos are seen", "photos/s", "seed mIoU, model's threshold"], rows) + f"\n\n{note}"


def rounding() -> str:
    """Settings that `tradeoff.py` measured in bfloat16 and in float32."""
    both = {(r["setting"], r["bf16"]): r for r in records("tradeoff_*.json")}
    rows = []
    for name in sorted(name for name, bf16 in both if not bf16 and (name, True) in both):
        half, full = both[name, True], both[name, False]
        differences = [f"{100 * (half[key] - full[key]):+.2f}" for key in ("miou", "miou_at_default")]
        rows.append([f"`{name}`", *differences, f"{half['photos_per_second'] / full['photos_per_second']:.2f}"])
    return markdown(["setting", "mIoU, own best threshold", "default threshold", "times faster"], rows)
