"""From nothing to the first CAM: imports, timm's network alone, `create_model(pretrained=True)`, first and second CAM.

python benchmarks/load_time.py --json docs/records/load_time.json

Fresh processes, medians; the photo is 500 x 375, seen as by default.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def stages(name: str, device: str) -> dict[str, float]:
    """Seconds of each stage, in this process."""
    taken: dict[str, float] = {}

    def timed(stage: str, call: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = call()
        taken[stage] = time.perf_counter() - begin
        return result

    def imports() -> None:
        import timm  # noqa: F401

        import crt.models  # noqa: F401

    timed("imports", imports)
    import timm
    import torch

    import crt

    timed("timm's network", lambda: timm.create_model("vit_tiny_patch16_224", num_classes=0))
    model = timed("create_model", lambda: crt.create_model(name, pretrained=True).to(device))
    photo = torch.zeros(3, 375, 500, dtype=torch.uint8)
    for stage in ("first CAM", "second CAM"):
        timed(stage, lambda: model.cam(photo, [7]).cpu())
    return taken


def main(
    model: Annotated[str, typer.Option(help="A name of `crt models --pretrained`.")] = "crt_vit_t16",
    device: str = "cpu",
    repeats: int = 5,
    record: Annotated[Path | None, typer.Option("--json", help="Write the record here.")] = None,
    child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
) -> None:
    if child:
        print(json.dumps(stages(model, device)))
        return
    from _timing import device_name, in_fresh_process, medians

    from crt.evaluate.record import write_record

    arguments = (__file__, "--child", "--model", model, "--device", device)
    in_fresh_process(*arguments)  # warm-up: compiled files, the disk's cache
    runs = [in_fresh_process(*arguments) for _ in range(repeats)]
    times = {stage: [run[stage] for run in runs] for stage in runs[0]}
    middle = medians(times)
    print({stage: f"{value:.3f} s" for stage, value in middle.items()})
    write_record(
        record,
        measure="from nothing to the first CAM, seconds",
        model=model,
        device=device,
        gpu=device_name(device),
        repeats=repeats,
        seconds=times,
        medians=middle,
        to_first_cam=middle["imports"] + middle["create_model"] + middle["first CAM"],
    )


if __name__ == "__main__":
    typer.run(main)
