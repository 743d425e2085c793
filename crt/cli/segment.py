"""``crt segment``: images to masks, without labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crt.cli.common import autocast, factors, find_device, finish_job, load_model, load_refiner, view_settings
from crt.cli.options import DEFAULT_MODEL, Machine, Model, Refine, Seen, grouped
from crt.cli.screen import progress_bar

if TYPE_CHECKING:
    import torch

    from crt.cam.segment import Segmenter

__all__ = ["make_segmenter", "segment"]


@grouped
def segment(
    *,
    images: Annotated[
        list[Path], typer.Argument(help="Images, or folders of them.", metavar="IMAGE_OR_FOLDER...", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--out", help="Output folder. An interrupted job resumes there.")],
    model: Model = DEFAULT_MODEL,
    refine: Refine = "none",
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Background score: lower values give larger masks. Default: the model's."),
    ] = None,
    seen: Seen,
    machine: Machine,
) -> None:
    """Find the objects in images, without labels.

    Writes NAME.mask.png (VOC palette) and NAME.png (the image, and its mask with a legend) for each image.
    Several processes (each uses its own GPU): `torchrun --nproc-per-node N -m -- crt.cli segment ...`
    """
    from crt.data.unlabelled import list_photos
    from crt.jobs.peers import Peers
    from crt.segmenting import segment_folder

    photos = list_photos(images, without=output)
    peers = Peers.from_environment()
    target = find_device(machine.device)
    network: Any = load_model(model, target)
    segmenter, settings = make_segmenter(network, target, refine, threshold, seen, machine.batch_size)
    with autocast(target, machine.bf16):
        report = segment_folder(
            network if segmenter is None else segmenter,
            photos,
            output,
            seen=None if segmenter is not None else settings,
            process=(peers.rank, peers.world),
            claim=peers.claim if peers.store is not None else None,
            progress=progress_bar,
        )
    finish_job(peers, report, output)


def make_segmenter(
    network: Any, device: "torch.device", refine: str, threshold: float | None, seen: Seen, batch_size: int
) -> "tuple[Segmenter | None, dict[str, Any]]":
    """A ``Segmenter`` of a CAM model and its settings; of a network that predicts masks itself only the settings.

    Raises:
        ValueError: an option that a network without maps does not have.
    """
    if hasattr(network, "tile_maps"):
        from crt.cam.segment import Segmenter

        settings = {"batch_size": batch_size, **view_settings(network, seen)}
        refiner = load_refiner(refine, network, device)
        return Segmenter(network, refiner=refiner, threshold=threshold, **settings), settings
    given = {"--threshold": threshold, "--preset": seen.preset, "--stride": seen.stride}
    given["--refine"] = None if refine == "none" else refine
    if names := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"{', '.join(names)}: this model predicts masks itself; it has only --scales and --flip.")
    return None, {"scales": (1.0,) if seen.scales is None else factors(seen.scales), "flip": seen.flip is not False}
