"""From the plain baseline to the library one change at a time, and where the library's time goes, by operator.

python benchmarks/cam_changes.py --json docs/records/changes.json

The ways take turns on the CAM of one photo of 500 x 375, with the same weights.  Each row has all changes above it, but
for those that are named as tried: what they give says whether they should be.
"""

from functools import partial
from typing import Annotated, Any

import torch
import typer
from _baseline import plain_cam, transformer
from _runner import Json
from _timing import device_name, medians, take_turns
from cam_throughput import LABELS, build, ours, photo_of
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from crt.cam import CAMExtractor
from crt.evaluate.record import write_record
from crt.images import normalize

GROUPS = {  # operators by their first letters
    "matrix products of the blocks": ("aten::addmm", "mkl::", "mkldnn::_linear", "aten::linear"),
    "fused attention": ("aten::_scaled_dot", "aten::_flash", "aten::_efficient"),
    "GELU": ("aten::gelu",),
    "norms": ("aten::native_layer_norm",),
    "class attention": ("aten::bmm", "aten::einsum", "aten::_softmax"),
    "convolutions": ("aten::mkldnn_convolution", "aten::_convolution", "aten::cudnn_convolution"),
    "resizing": ("aten::upsample", "aten::_upsample"),
    "copies, casts, sums": ("aten::copy_", "aten::add", "aten::cat", "aten::stack", "aten::mul", "aten::sum"),
}


def without_matrices(model: Any, tiles: Tensor) -> tuple[Tensor, Tensor]:
    """The baseline's own transformer, which here lets go of each matrix but for the class token's row."""
    maps, rows = transformer(model, tiles, kept=lambda matrix: matrix[:, :, 0, model.prefix :].mean(dim=1))
    attention = torch.stack(rows).sum(dim=0) ** model.attention_power
    return maps, attention.reshape(-1, 1, *maps.shape[2:])


def fused(model: Any, tiles: Tensor) -> tuple[Tensor, Tensor]:
    """The library's transformer under the baseline's loops."""
    return model.tile_maps(tiles)


def shares(call: Any, device: str) -> dict[str, float]:
    """Share of the operators' own time."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.device(device).type == "cuda" else [])]
    with profile(activities=activities) as profiled:
        call()
    found = dict.fromkeys([*GROUPS, "all others"], 0.0)
    for event in profiled.key_averages():
        time = event.self_device_time_total if torch.device(device).type == "cuda" else event.self_cpu_time_total
        group = next((name for name, starts in GROUPS.items() if event.key.startswith(starts)), "all others")
        found[group] += time
    return {name: time / sum(found.values()) for name, time in found.items()}


def main(
    model: str = "crt_vit_t16",
    passes: Annotated[int, typer.Option(help="0 is the plain transformer.")] = 3,
    scales: str = "0.5,1,1.5",
    device: str = "cpu",
    repeats: int = 3,
    record: Json = None,
) -> None:
    factors, photo = tuple(float(scale) for scale in scales.split(",")), photo_of(375, 500).to(device)
    network, compiled = build(model, passes, device), build(model, passes, device)
    compiled.compile()
    image = normalize(photo, network.mean, network.std)
    plain = partial(plain_cam, network, image, LABELS[0], factors)
    extractors = {n: CAMExtractor(network, scales=factors, batch_size=n) for n in (4, 16, 64, 10**6)}
    ours_16 = partial(ours, extractors[16], photo, device)
    ours_compiled = partial(ours, CAMExtractor(compiled, scales=factors), photo, device)
    ways = {
        "plain baseline": plain,
        "no matrices kept": partial(plain, tile_maps=without_matrices),
        "fused attention, one row of it apart": partial(plain, tile_maps=fused),
        "tiles of all scales and mirror images in batches of 16": ours_16,
        "tried: batches of 4": partial(ours, extractors[4], photo, device),
        "tried: batches of 64": partial(ours, extractors[64], photo, device),
        "tried: all tiles at once": partial(ours, extractors[10**6], photo, device),
        "tried: compiled blocks, float32": ours_compiled,
        "bfloat16": partial(ours_16, bf16=True),
        "compiled blocks, bfloat16": partial(ours_compiled, bf16=True),
    }
    maps = {name: way() for name, way in ways.items()}  # warm-up
    ways["compiled blocks, bfloat16"]()
    error = {name: float((found - maps["plain baseline"]).abs().max()) for name, found in maps.items()}
    times = take_turns(ways, repeats, device)
    middle = medians(times)
    for name, value in middle.items():
        print(f"{name}: {value:.2f} s, {middle['plain baseline'] / value:.2f} times, maps {error[name]:.1e} off")
    spent = {kind: shares(partial(ours_16, bf16=kind == "bfloat16"), device) for kind in ("float32", "bfloat16")}
    print({kind: {name: round(share, 3) for name, share in found.items()} for kind, found in spent.items()})
    write_record(
        record,
        measure="CAM of one photo, change by change, seconds",
        model=model,
        passes=passes,
        device=device,
        gpu=device_name(device),
        photo=[375, 500],
        scales=factors,
        flip=True,
        repeats=repeats,
        seconds=times,
        medians=middle,
        times_plain={name: middle["plain baseline"] / value for name, value in middle.items()},
        largest_difference=error,
        shares=spent,
    )


if __name__ == "__main__":
    typer.run(main)
