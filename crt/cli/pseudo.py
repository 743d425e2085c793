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
    check_apart,
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

    Several processes: `torchrun --nproc-per-node N -m crt.cli pseudo ...`; with `--device cuda` each takes its own GPU.
    """
    with one_line_errors():
        from crt.pseudo import Peers, make_pseudo_masks
        from crt.refine import crf_labels

        levels: Any = factors(threshold, "--threshold")
        if len(levels) > 2:
            raise ValueError(f"--threshold {threshold}: expected one background score or LOW,HIGH.")
        peers = Peers.from_environment()
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
        network = load_model(model, device)
        unusable: list[str] = []
        check_apart(output, images, labels)
        photos = labelled_photos(images, labels, voc, cub, split, class_names=network.class_names, unusable=unusable)
        unusable = unusable if peers.rank == 0 else []
        for failure in unusable:
            complain(ValueError(failure))
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
                process=(peers.rank, peers.world),
                claim=peers.claim if peers.store is not None else None,
                progress=progress_bar,
            )
        for file, reason in report.failed:
            complain(ValueError(f"{file}: {reason}"))
        written, skipped, failed = peers.finish((report.written, report.skipped, len(report.failed) + len(unusable)))
        if peers.rank == 0:
            text = f"{written} masks written, {skipped} were there, {failed} failed -> {output}"
            out.print(text, highlight=False, soft_wrap=True)
        if failed:
            raise typer.Exit(2)
