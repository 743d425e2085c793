"""``crt train``: training."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crt.cli.common import CUB, VOC, Images, Labels, Split, check_apart, err, labelled_photos, one_line_errors, out

Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting of the recipe, NAME=VALUE; may be repeated.")
]
Pretrained = Annotated[bool, typer.Option(help="Start from ImageNet weights, or from random ones.")]
Precision = Annotated[
    str | None, typer.Option(help="no (float32) or bf16; without it, what `accelerate launch` was told, or else no.")
]
SaveEvery = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that decode photos.")]

app = typer.Typer(help="Train (extra `train`).", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Train (extra `train`)."""


@app.command("cam")
def train_cam(
    output: Annotated[Path, typer.Option("--out", help="Folder of the run; a stopped run goes on from there.")],
    images: Images = None,
    labels: Labels = None,
    voc: VOC = None,
    cub: CUB = None,
    split: Split = None,
    masks: Annotated[
        Path | None, typer.Option(help="Pseudo masks of the photos (`crt pseudo`), for a recipe that trains on them.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Go on from a trained model of any architecture: a folder, say RUN/model.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="A named recipe: t16-voc9k, t16-voc9k-masks, t16-cub50, paper, paper-wsol.")
    ] = "t16-voc9k",
    set_: Changes = None,
    backbone_checkpoint: Annotated[
        Path | None, typer.Option(help="ImageNet weights of the ViT (safetensors, timm's layout); none: from timm.")
    ] = None,
    cnn_checkpoint: Annotated[Path | None, typer.Option(help="The same for the CNN.")] = None,
    pretrained: Pretrained = True,
    seed: int = 0,
    precision: Precision = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile both backbones.")] = False,
    save_every: SaveEvery = 200,
    workers: Workers = 1,
) -> None:
    """Train on image-level labels; the result is OUT/model.

    Several processes: `torchrun --nproc-per-node N -m crt.cli train cam ...`.
    """
    with one_line_errors():
        train = _library()
        recipe = train.make_recipe(preset, set_ or [], stage=train.CAMRecipe)
        check_apart(output, images, labels)
        photos = labelled_photos(images, labels, voc, cub, split)
        photos = photos.with_masks(masks) if masks else photos
        model = train.build_branches(
            recipe,
            photos.class_names,
            backbone_checkpoint=backbone_checkpoint,
            cnn_checkpoint=cnn_checkpoint,
            pretrained=pretrained,
            start=start,
            seed=seed,
        )
        train.train_cam(
            model,
            photos,
            output,
            recipe,
            seed=seed,
            precision=precision,
            compile=compile,
            save_every=save_every,
            workers=workers,
            settings=_began_with(model),
            progress=_bar,
        )
        _done(photos, output)


@app.command("refine")
def train_refine(
    output: Annotated[Path, typer.Option("--out", help="Folder of the run; a stopped run goes on from there.")],
    masks: Annotated[Path, typer.Option(help="Confident masks of the photos: `crt pseudo --threshold LOW,HIGH`.")],
    images: Images = None,
    labels: Labels = None,
    voc: VOC = None,
    cub: CUB = None,
    split: Split = None,
    preset: Annotated[str, typer.Option(help="A named recipe: irn-lite0-voc9k, irn-paper.")] = "irn-lite0-voc9k",
    set_: Changes = None,
    backbone_checkpoint: Annotated[
        Path | None, typer.Option(help="ImageNet weights (safetensors, timm's layout); none: from timm.")
    ] = None,
    pretrained: Pretrained = True,
    seed: int = 0,
    precision: Precision = None,
    save_every: SaveEvery = 200,
    workers: Workers = 1,
) -> None:
    """Train the boundary network (IRN) on pseudo masks; `crt pseudo --refine local-dir:OUT/model` walks between them.

    Several processes: `torchrun --nproc-per-node N -m crt.cli train refine ...`.
    """
    with one_line_errors():
        train = _library()
        recipe = train.make_recipe(preset, set_ or [], stage=train.RefineRecipe)
        check_apart(output, images, labels)
        photos = labelled_photos(images, labels, voc, cub, split).with_masks(masks)
        model = train.build_boundary_net(
            recipe, backbone_checkpoint=backbone_checkpoint, pretrained=pretrained, seed=seed
        )
        train.train_refine(
            model,
            photos,
            output,
            recipe,
            seed=seed,
            precision=precision,
            save_every=save_every,
            workers=workers,
            settings=_began_with(model),
            progress=_bar,
        )
        _done(photos, output)


def _began_with(model: Any) -> dict[str, str]:
    """What a run that goes on must have begun with, too."""
    from crt._files import tensors_digest

    return {"start": tensors_digest(model.state_dict())}


def _library() -> Any:
    """``crt.train``; ValueError that names the extra if a package of it is missing."""
    try:
        import crt.train
    except ModuleNotFoundError as error:
        raise ValueError(f"training needs {error.name}: pip install 'crt-wsss[train]'.") from error
    return crt.train


def _bar(steps: Iterable[Any], first: int, total: int, status: Callable[[], str]) -> Iterable[Any]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", completed=first, total=total)
        for step in steps:
            yield step
            bar.update(task, advance=1, description=status())


def _done(photos: Any, output: Path) -> None:
    """The last line on the screen, of the first process alone."""
    if os.environ.get("RANK", "0") == "0":
        out.print(f"{len(photos)} photos, {len(photos.class_names)} classes -> {output / 'model'}", highlight=False)
