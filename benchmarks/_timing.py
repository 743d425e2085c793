"""What the scripts of speed share: taking turns on the clock, fresh processes, peak memory, work in a tile."""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

MATMUL_SIDE = 4096


def wait_for(device: str) -> None:
    """Returns when all work on the device is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], Any], device: str = "cpu") -> float:
    wait_for(device)
    begin = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - begin


def take_turns(ways: Mapping[str, Callable[[], Any]], repeats: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each way at each repeat; every other repeat goes through the ways backwards."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name in list(ways) if repeat % 2 == 0 else list(ways)[::-1]:
            times[name].append(seconds(ways[name], device))
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in times.items() if values}


def in_fresh_process(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON that a script prints as its last line, run in a process of its own."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_memory(call: Callable[[], Any], device: str = "cpu") -> dict[str, float]:
    """MB (10^6 bytes) that a process holds at its peak during the call, and what of it is beyond its state before.

    On the CPU that is resident memory.  Where the kernel's mark cannot be reset (not Linux), what is beyond is the
    growth of the peak so far: too low by what was freed.
    """
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated(device) / 1e6
        torch.cuda.reset_peak_memory_stats(device)
        call()
        top = torch.cuda.max_memory_allocated(device) / 1e6
    else:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
            before = _status("VmRSS")
            call()
            top = _status("VmHWM")
        except OSError:
            before = _growth()
            call()
            top = _growth()
    return {"peak_mb": top, "beyond_mb": top - before}


def _status(field: str) -> float:
    """A field of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6


def _growth() -> float:
    """The peak of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def tile_flops(model: Any) -> int:
    """Multiplications and additions in the matrix products of one tile: embedding, blocks of all passes, head."""
    vit = model.backbone
    patches = (model.tile // model.patch) ** 2
    tokens, dim = patches + model.prefix, vit.embed_dim
    linear = sum(p.numel() for p in vit.blocks.parameters() if p.ndim == 2)
    blocks = 2 * tokens * linear + 4 * tokens**2 * dim * len(vit.blocks)
    return (
        2 * patches * vit.patch_embed.proj.weight.numel()
        + max(model.num_passes, 1) * blocks
        + 2 * patches * model.head.weight.numel()
    )


def matmul_peak(device: str, dtype: torch.dtype, side: int = MATMUL_SIDE) -> float:
    """FLOP/s of a square matrix product, the best of five."""
    side = side if torch.device(device).type == "cuda" else side // 4
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / min(take_turns({"product": partial(torch.matmul, a, a)}, 5, device)["product"])


def device_name(device: str) -> str | None:
    """The GPU's name, for the record; the processor's is there anyway."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None
