"""``crt cam``: images to maps, masks and pictures."""

import itertools
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crt.cli.common import find_device, load_model, make_extractor
from crt.cli.options import DEFAULT_MODEL, BatchSize, Device, Model, Seen, grouped
from crt.cli.screen import complain, note, progress_bar, say

if TYPE_CHECKING:
    from crt.cam import CAMResult

ENDINGS = (".png", ".mask.png", ".cam.safetensors")


@grouped
def cam(
    *,
    images: Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE...", show_default=False)],
    output: Annotated[Path, typer.Option("--out", help="Output folder; it is created if it does not exist.")],
    labels: Annotated[
        str | None,
        typer.Option(help="Classes that the images show, separated by commas. Default: those the model predicts."),
    ] = None,
    model: Model = DEFAULT_MODEL,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Background score: lower values give larger masks. Default: the model's."),
    ] = None,
    seen: Seen,
    device: Device = "auto",
    batch_size: BatchSize = 16,
) -> None:
    """Show where in an image its classes are: maps and masks.

    Writes NAME.png (image, heat maps and mask side by side), NAME.mask.png (VOC palette) and NAME.cam.safetensors (the
    maps) for each image.  An image with a side over 2048 pixels is reduced to that when it is read: its maps have the
    reduced size, its mask has the image's.
    """
    from crt.images import image_size, open_image
    from crt.jobs.job import working_side
    from crt.labels import to_multi_hot

    names = _names(labels)
    targets = _targets(images, output)
    network = load_model(model, find_device(device))
    wanted: list[str | int] | None = None
    if names is not None:
        wanted = [int(name) if network.class_names is None and name.isdecimal() else name for name in names]
    to_multi_hot(wanted, 1, network.num_classes, network.class_names)  # unknown names fail before any work
    extractor = make_extractor(network, batch_size, seen)
    side = working_side(extractor.scales, extractor.max_side)
    output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for image, target in progress_bar(targets.items(), len(targets)):
        try:
            size = image_size(image)
            (result,) = extractor(open_image(image, max_side=side), wanted)
            _write(result, size, target, threshold)
        except Exception as error:  # one image never ends the job: decoders raise what they like, memory runs out
            failed += 1
            complain(error, f"{image}: ")
        else:
            say(f"{image}: {', '.join(result.names) or 'no class'} -> {target}.*")
    if failed:
        note(f"{failed} of {len(targets)} images failed; the others are done.")
        raise typer.Exit(2)


def _names(labels: str | None) -> list[str] | None:
    if labels is None:
        return None
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if not names:
        raise ValueError(f"--labels {labels!r} names no class; omit --labels to have the classes predicted.")
    return names


def _targets(images: list[Path], output: Path) -> dict[Path, Path]:
    """Where each image's results go: safe names inside ``output``, all different, none of them an input.

    Images of one stem (a.jpg and a.png) keep their suffix (a_jpg, a_png); of one name (x/a.jpg and y/a.jpg) all but the
    first get a number (a_jpg, a_jpg-2).

    Raises:
        FileNotFoundError: an image does not exist.
        ValueError: a result that would overwrite an image.
    """
    inputs: dict[tuple[int, int], Path] = {}
    for image in images:
        try:
            status = os.stat(image)
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no image at {image}.") from None
        except (OSError, ValueError):
            continue  # a name that cannot be: reading the image will tell
        inputs[status.st_dev, status.st_ino] = image
    images = list(dict.fromkeys(images))
    stems = Counter(_safe(image.stem).casefold() for image in images)
    targets: dict[Path, Path] = {}
    taken: set[str] = set()
    for image in images:
        name = _safe(image.stem)
        if stems[name.casefold()] > 1:
            name = _safe(image.name.replace(".", "_"))
        numbered = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        name = next(each for each in numbered if taken.isdisjoint(_files_of(each)))
        taken.update(_files_of(name))
        for ending in ENDINGS:
            _refuse_input(output / (name + ending), inputs)
        targets[image] = output / name
    return targets


def _files_of(name: str) -> set[str]:
    """The files of a result, by which names that some file systems take for one are one."""
    return {(name + ending).casefold() for ending in ENDINGS}


def _safe(stem: str) -> str:
    """A file name without separators, controls and signs that shells read; bytes that are not UTF-8 are kept."""
    return re.sub("[^\\w.\\- \udc80-\udcff]", "_", stem).lstrip(".") or "image"


def _refuse_input(path: Path, inputs: dict[tuple[int, int], Path]) -> None:
    """ValueError if a file that would be written is an input, by whatever name (links, capitals)."""
    try:
        status = os.stat(path)
    except OSError:
        return  # not there, or not to be had: writing will tell
    if image := inputs.get((status.st_dev, status.st_ino)):
        raise ValueError(f"{image} is an input and would be overwritten as {path}; choose another --out folder.")


def _write(result: "CAMResult", size: tuple[int, int], target: Path, threshold: float | None) -> None:
    """The files of an image of ``size`` (H, W), of which the result may be of a reduced copy."""
    import torch

    from crt._files import whole_file
    from crt.masks import resize_mask, save_mask

    with whole_file(target.with_name(target.name + ".mask.png")) as temporary:
        mask = resize_mask(result.mask(threshold).cpu(), size)
        save_mask(mask, temporary, wide=mask.dtype != torch.uint8)
    with whole_file(target.with_name(target.name + ".png")) as temporary:
        result.panel(threshold).save(temporary, format="PNG")
    result.save(target.with_name(target.name + ".cam.safetensors"))
