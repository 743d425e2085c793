"""What `import crt` costs beyond torch and timm.

python benchmarks/import_time.py --json docs/records/import_time.json

Each stage's seconds in a process that has done the stages before; fresh processes, medians.
"""

import json
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

STAGES = {"torch": "torch", "timm": "timm", "crt": "crt", "crt.create_model": "crt.models"}


def stages() -> dict[str, float]:
    """Seconds of each import, in this process."""
    taken = {}
    for name, module in STAGES.items():
        begin = time.perf_counter()
        import_module(module)
        taken[name] = time.perf_counter() - begin
    return taken


def main(
    repeats: int = 5,
    record: Annotated[Path | None, typer.Option("--json", help="Write the record here.")] = None,
    child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
) -> None:
    if child:
        print(json.dumps(stages()))
        return
    from _timing import in_fresh_process, medians

    from crt.evaluate.record import write_record

    in_fresh_process(__file__, "--child")  # warm-up: compiled files, the disk's cache
    runs = [in_fresh_process(__file__, "--child") for _ in range(repeats)]
    times = {name: [run[name] for run in runs] for name in STAGES}
    middle = medians(times)
    ours = middle["crt"] + middle["crt.create_model"]
    print({name: f"{value:.3f} s" for name, value in middle.items()}, f"ours: {ours:.3f} s")
    write_record(
        record,
        measure="imports, seconds",
        repeats=repeats,
        seconds=times,
        medians=middle,
        ours=ours,
        ratio=ours / (middle["torch"] + middle["timm"]),
    )


if __name__ == "__main__":
    typer.run(main)
