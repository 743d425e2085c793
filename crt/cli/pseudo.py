"""``crt pseudo``: labeled images to pseudo masks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crt.cli.common import autocast, factors, find_device, finish_job, load_model, load_refiner, make_extractor
from crt.cli.options import DEFAULT_MODEL, Data, Machine, Model, Refine, Seen, grouped
from crt.cli.screen import complain, progress_bar

if TYPE_CHECKING:
    from crt.models import CRT


@grouped
def pseudo(
    *,
    output: Annotated[Path, typer.Option("--out", help="Output folder. An interrupted job resumes there.")],
    source: Data,
    model: Model = DEFAULT_MODEL,
    refine: Refine = "pamr",
    threshold: Annotated[
        str | None,
        typer.Option(
            help="Background score. With LOW,HIGH, pixels with scores in between are marked unsure (255). "
            "auto fits LOW,HIGH to the maps of 200 images; an interrupted job keeps them. "
            "Default: the model's own where its classes compete, else 0.34."
        ),
    ] = None,
    clean: Annotated[
        bool,
        typer.Option("--clean", help="Clean the mask with a dense CRF, as IRN does (pip install 'crt-wsss\\[crf]')."),
    ] = False,
    seen: Seen,
    machine: Machine,
) -> None:
    """Turn image-level labels into pseudo masks, one per image.

    Writes OUT/NAME.png for each image, and OUT/manifest.jsonl, which says what each mask was made from.
    Several processes (each uses its own GPU): `torchrun --nproc-per-node N -m -- crt.cli pseudo ...`
    """
    from crt.jobs.peers import Peers
    from crt.pseudo import make_pseudo_masks
    from crt.refine.crf import crf_labels

    peers = Peers.from_environment()
    target = find_device(machine.device)
    network = load_model(model, target)
    if network.class_names is None:
        raise ValueError(f"{model} does not name its classes, so labels cannot be matched to them.")
    levels = _levels(threshold, network)
    unusable: list[str] = []
    source.check_apart(output)
    photos = source.load(network.class_names, unusable=unusable)
    unusable = unusable if peers.rank == 0 else []
    for failure in unusable:
        complain(failure)
    refiner = load_refiner(refine, network, target)
    extractor = make_extractor(network, machine.batch_size, seen)
    with autocast(target, machine.bf16):
        report = make_pseudo_masks(
            extractor,
            refiner,
            photos,
            output,
            threshold=levels,
            clean=crf_labels if clean else None,
            process=(peers.rank, peers.world),
            claim=peers.claim if peers.store is not None else None,
            progress=progress_bar,
        )
    finish_job(peers, report, output, refused=len(unusable))


def _levels(text: str | None, network: "CRT") -> Any:
    """ "0.3" -> 0.3, "0.3,0.5" -> (0.3, 0.5), and "auto"; None takes what suits the model's maps."""
    if text is None:  # after refining, 0.34 is best for the bundled models whose classes do not compete
        return network.seed_threshold if network.activation == "softmax" else 0.34
    if text == "auto":
        return text
    levels = factors(text, "--threshold")
    if len(levels) > 2:
        raise ValueError(f"--threshold {text}: expected one background score, LOW,HIGH, or auto.")
    return levels if len(levels) == 2 else levels[0]
