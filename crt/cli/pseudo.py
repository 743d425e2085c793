"""``crt pseudo``: labelled photos to pseudo masks."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from crt.cli.common import (
    CUB,
    VOC,
    BatchSize,
    BFloat16,
    Device,
    Flip,
    Images,
    Labels,
    Model,
    Preset,
    Refine,
    Scales,
    Split,
    Stride,
    autocast,
    complain,
    factors,
    labelled_photos,
    load_model,
    load_refiner,
    make_extractor,
    one_line_errors,
    out,
    progress_bar,
)


def pseudo(
    output: Annotated[Path, typer.Option("--out", help="Folder for the masks; a stopped job goes on from there.")],
    images: Images = None,
    labels: Labels = None,
    voc: VOC = None,
    cub: CUB = None,
    split: Split = None,
    model: Model = "crt_vit_t16",
    refine: Refine = "pamr",
    threshold: Annotated[
        str, typer.Option(help="Background score; LOW,HIGH marks scores between the two as unsure (255).")
    ] = "0.34",
    clean: Annotated[
        bool,
        typer.Option("--clean", help="Clean the mask of each threshold by a dense CRF (extra `crf`), as IRN does."),
    ] = False,
    preset: Preset = "fast",
    scales: Scales = None,
    flip: Flip = None,
    stride: Stride = None,
    bf16: BFloat16 = False,
    device: Device = "cpu",
    batch_size: BatchSize = 16,
) -> None:
    """Write a pseudo mask OUT/NAME.png for each photo, and OUT/manifest.jsonl.

    Several processes: `accelerate launch -m crt.cli pseudo ...`; with `--device cuda` each takes its own GPU.
    """
    with one_line_errors():
        from crt.pseudo import make_pseudo_masks
        from crt.refine import crf_labels

        levels: Any = factors(threshold, "--threshold")
        if len(levels) > 2:
            raise ValueError(f"--threshold {threshold}: expected one background score or LOW,HIGH.")
        rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
        network = load_model(model, device)
        unusable: list[str] = []
        photos = labelled_photos(images, labels, voc, cub, split, class_names=network.class_names, unusable=unusable)
        if network.class_names is None or list(network.class_names) != photos.class_names:
            raise ValueError(f"{model} knows the classes {network.class_names}, the photos' are {photos.class_names}.")
        refiner = load_refiner(refine, network, device)
        extractor = make_extractor(network, batch_size, scales, flip, stride, preset)
        with autocast(device, bf16):
            report = make_pseudo_masks(
                extractor,
                refiner,
                photos,
                output,
                threshold=levels if len(levels) == 2 else levels[0],
                clean=crf_labels if clean else None,
                settings={"model": model, "weights": _digest(network), "bf16": bf16, **_identity(refine, refiner)},
                process=(rank, world),
                progress=progress_bar,
            )
        failures = [f"{file}: {reason}" for file, reason in report.failed] + (unusable if rank == 0 else [])
        for failure in failures:
            complain(ValueError(failure))
        text = f"{report.written} masks written, {report.skipped} were there, {len(failures)} failed -> {output}"
        out.print(text, highlight=False, soft_wrap=True)
        if failures:
            raise typer.Exit(2)


def _identity(name: str, refiner: Any) -> dict[str, str]:
    """The refiner's name and, if it has any, the SHA-256 of its weights."""
    trained = refiner is not None and refiner.state_dict()
    return {"refiner": name, **({"refiner_weights": _digest(refiner)} if trained else {})}


def _digest(network: Any) -> str:
    """SHA-256 of the weights."""
    import hashlib

    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
