"""The CAMs of one photo: the library against a plain baseline, and against timm's own forward of as many tiles.

python benchmarks/cam_throughput.py --model crt_vit_t16 --json docs/records/throughput_t16.json

The paper's inference: 7 scales, mirror image, 3 passes, tiles of 224 at stride 112, of a photo of 500 x 375.  The ways
take turns on the same weights; ratios are of medians.  Peak memory is of the last scale without the mirror image,
each way in a process of its own; on the CPU it includes that of Python and its libraries.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from _baseline import plain_cam, scale_cam
from _timing import device_name, in_fresh_process, matmul_peak, medians, peak_memory, take_turns, tile_flops
from rich.progress import track
from torch import Tensor

import crt
from crt.cam import PRESETS, CAMExtractor
from crt.evaluate.record import write_record
from crt.images import normalize

LABELS = [[7, 11]]
TRIED = (8, 16, 32)  # batches of tiles for timm's own forward
TRIED_ON_GPU = (64, 128, 256, 512)
CHECKS = [(0, "exact"), (0, "reference"), (3, "exact"), (3, "reference")]


def build(name: str, passes: int, device: str) -> Any:
    """Trained weights where the package has them, with passes and class attention whatever they were made for."""
    pretrained = any(known.startswith(f"{name}.") for known in crt.list_models(pretrained=True))
    torch.manual_seed(0)
    model = crt.create_model(name, pretrained=pretrained, num_classes=20, num_passes=passes, attention_power=1.0)
    return model.to(device)


def photo_of(height: int, width: int) -> Tensor:
    """(3, H, W) uint8: noise, to which a transformer's speed is indifferent."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def ours(extractor: CAMExtractor, photo: Tensor, device: str, bf16: bool = False) -> Tensor:
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16):
        return extractor(photo, LABELS)[0].maps


def plain(model: Any, photo: Tensor, scales: tuple[float, ...]) -> Tensor:
    return plain_cam(model, normalize(photo.to(model.device), model.mean, model.std), LABELS[0], scales)


@torch.no_grad()
def limit(vit: Any, tiles: int, batch: int, passes: int) -> None:
    """timm's forward of as many tiles, its blocks run as often as the model's."""
    weight = vit.patch_embed.proj.weight
    images = torch.zeros(batch, 3, 224, 224, device=weight.device, dtype=weight.dtype)
    for first in range(0, tiles, batch):
        x = vit.forward_features(images[: tiles - first])
        for _ in range(passes - 1):
            x = vit.blocks(x)


def best_batch(vit: Any, device: str) -> int:
    """The batch in which timm's forward is fastest a tile."""
    tried = TRIED_ON_GPU if torch.device(device).type == "cuda" else TRIED
    ways = {str(batch): partial(limit, vit, max(tried), batch, 1) for batch in tried}
    ways[str(tried[0])]()
    times = medians(take_turns(ways, 1, device))
    return int(min(times, key=times.__getitem__))


def count_tiles(extractor: CAMExtractor, photo: Tensor) -> int:
    """How many tiles the model is given for a photo."""
    model, counted = extractor.model, []
    compute = model.tile_maps

    def counting(tiles: Tensor) -> Any:
        counted.append(len(tiles))
        return compute(tiles)

    model.tile_maps = counting
    try:
        extractor(photo, LABELS)
    finally:
        del model.tile_maps
    return sum(counted)


def equality(name: str, device: str) -> list[dict[str, Any]]:
    """The largest difference from the baseline, over the largest value, in float32: passes and alignments."""
    photo, rows = photo_of(300, 365), []
    for passes, align in CHECKS:
        model = build(name, passes, device)
        image = normalize(photo.to(device), model.mean, model.std)
        if align == "exact":
            found = ours(CAMExtractor(model, scales=(0.5, 1.0)), photo.to(device), device)
            wanted = plain(model, photo, (0.5, 1.0))
        else:
            found = model.raw_cam(image[None], align=align)[0]
            with torch.no_grad():
                wanted = scale_cam(model, image, align)
        error = float((found - wanted).abs().max() / wanted.abs().max())
        rows.append({"passes": passes, "align": align, "relative_error": error, "equal": error < 1e-4})
    return rows


def way_of(name: str, model: Any, photo: Tensor, device: str, scales: tuple[float, ...], flip: bool) -> Callable:
    extractor = CAMExtractor(model, scales=scales, flip=flip, batch_size=16 if device == "cpu" else 256)
    if name == "plain":
        return partial(plain, model, photo, scales)
    return partial(ours, extractor, photo.to(device), device, name.endswith("bfloat16"))


def measure(
    name: str, passes: int, device: str, scales: tuple[float, ...], repeats: int, compiled: bool
) -> dict[str, Any]:
    """Seconds of each way, tiles and work."""
    photo = photo_of(375, 500)
    model = build(name, passes, device)
    names = ["plain", "ours float32", "ours bfloat16"]
    ways = {way: way_of(way, model, photo, device, scales, True) for way in names}
    for way in names:
        way_of(way, model, photo, device, (0.5,), True)()  # warm-up
    tiles, batches = count_tiles(ways["ours float32"].args[0], photo.to(device)), {}
    for dtype in ("float32", "bfloat16"):
        vit = build(name, passes, device).backbone.to(getattr(torch, dtype))
        batches[dtype] = best_batch(vit, device)
        ways[f"limit {dtype}"] = partial(limit, vit, tiles, batches[dtype], passes)
    if compiled:
        twin = build(name, passes, device)
        twin.compile()
        for dtype in ("float32", "bfloat16"):
            way = f"compiled {dtype}"
            ways[way] = way_of(way, twin, photo, device, scales, True)
            way_of(way, twin, photo, device, (0.5, 0.75), True)()
    times = take_turns(ways, repeats, device)
    middle, work = medians(times), tiles * tile_flops(model)
    kept = ("ours", "compiled")
    return {
        "tiles": tiles,
        "flop_a_photo": work,
        "limit_batches": batches,
        "seconds": times,
        "medians": middle,
        "photos_per_second": {way: 1 / value for way, value in middle.items()},
        "tiles_per_second": {way: tiles / value for way, value in middle.items()},
        "flop_per_second": {way: work / value for way, value in middle.items()},
        "times_plain": {way: middle["plain"] / middle[way] for way in middle if way.startswith(kept)},
        "share_of_limit": {
            way: middle[f"limit {way.split()[1]}"] / middle[way] for way in middle if way.startswith(kept)
        },
        "matmul_flop_per_second": {d: matmul_peak(device, getattr(torch, d)) for d in batches},
    }


def main(
    model: Annotated[str, typer.Option(help="A name of `crt models`.")] = "crt_vit_t16",
    passes: Annotated[int, typer.Option(help="0 is the plain transformer.")] = 3,
    device: str = "cpu",
    scales: str = ",".join(map(str, PRESETS["paper"]["scales"])),
    repeats: int = 2,
    compile: Annotated[bool, typer.Option("--compile", help="Also with compiled blocks.")] = False,
    record: Annotated[Path | None, typer.Option("--json", help="Write the record here.")] = None,
    peak: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    factors = tuple(float(scale) for scale in scales.split(","))
    if peak is not None:
        way = way_of(peak, build(model, passes, device), photo_of(375, 500), device, factors[-1:], False)
        print(json.dumps(peak_memory(way, device)))
        return
    checks = equality(model, device)
    found = measure(model, passes, device, factors, repeats, compile)
    shared = ("--model", model, "--passes", str(passes), "--device", device, "--scales", scales)
    peaks = {
        way: in_fresh_process(__file__, *shared, "--peak", way)
        for way in track(["plain", "ours float32", "ours bfloat16"], "memory", transient=True)
    }
    for way, value in found["medians"].items():
        print(
            f"{way}: {1 / value:.3f} photos/s, {found['tiles_per_second'][way]:.1f} tiles/s, "
            f"{found['flop_per_second'][way] / 1e9:.1f} GFLOP/s, "
            f"{peaks.get(way, {}).get('peak_mb', float('nan')):.0f} MB at most"
        )
    print("times the baseline:", {way: round(value, 2) for way, value in found["times_plain"].items()})
    print("share of the limit:", {way: round(value, 2) for way, value in found["share_of_limit"].items()})
    print("against the baseline:", [f"{row['relative_error']:.1e}" for row in checks])
    write_record(
        record,
        measure="CAM of one photo, seconds",
        model=model,
        passes=passes,
        device=device,
        gpu=device_name(device),
        photo=[375, 500],
        scales=factors,
        flip=True,
        repeats=repeats,
        equality=checks,
        **found,
        peak_memory=peaks,
    )


if __name__ == "__main__":
    typer.run(main)
