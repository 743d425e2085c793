"""``crt train``: training."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crt.cli.common import CUB, VOC, Device, Images, Labels, Split, check_apart, err, find_device, labelled_images, say
from crt.cli.screen import progress_lines

Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting of the recipe: NAME=VALUE. Can be repeated.")
]
Pretrained = Annotated[bool, typer.Option(help="Start from ImageNet weights, or from random weights.")]
Precision = Annotated[
    str | None, typer.Option(help="no (float32) or bf16. Default: the setting of `accelerate launch`, else no.")
]
Seed = Annotated[int, typer.Option(help="Seed of the random numbers.")]
SaveEvery = Annotated[int, typer.Option(min=1, help="Training steps between checkpoints.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that load images.")]

Force = Annotated[bool, typer.Option("--force", help="Train although a class is in all images, or in none.")]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Train on your own images (pip install 'crt-wsss\\[train]')."""


@app.command("cam")
def train_cam(
    output: Annotated[Path, typer.Option("--out", help="Folder of the run. An interrupted run resumes there.")],
    images: Images = None,
    labels: Labels = None,
    voc: VOC = None,
    cub: CUB = None,
    split: Split = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Pseudo masks of the images (from `crt pseudo`), for recipes that train on masks."),
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Start from a trained model: a folder, such as RUN/model.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Training recipe: t16-voc9k, t16-voc9k-masks, t16-cub50, frozen, paper or paper-wsol.",
            show_default="t16-voc9k",
        ),
    ] = None,
    set_: Changes = None,
    backbone_checkpoint: Annotated[
        Path | None,
        typer.Option(help="ImageNet weights of the ViT (a safetensors file from timm). Default: timm downloads them."),
    ] = None,
    cnn_checkpoint: Annotated[Path | None, typer.Option(help="ImageNet weights of the CNN, likewise.")] = None,
    pretrained: Pretrained = True,
    freeze_backbone: Annotated[
        bool,
        typer.Option("--freeze-backbone", help="Train the head alone, in minutes, on features kept in OUT/features."),
    ] = False,
    force: Force = False,
    seed: Seed = 0,
    precision: Precision = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile both backbones with torch.compile.")] = False,
    save_every: SaveEvery = 200,
    workers: Workers = 1,
) -> None:
    """Train a model on image-level labels.

    The trained model is written to OUT/model; use it as `--model local-dir:OUT/model`.
    Several processes: `torchrun --nproc-per-node N -m -- crt.cli train cam ...`
    """
    train = _library()
    chosen = train.make_recipe(
        recipe or ("frozen" if freeze_backbone else "t16-voc9k"),
        [*(set_ or []), *(["freeze_backbone=true", "cnn=null", "mask=0"] if freeze_backbone else [])],
        stage=train.recipe.CAMRecipe,
    )
    check_apart(output, images, labels)
    photos = labelled_images(images, labels, voc, cub, split)
    photos = photos.with_masks(masks) if masks else photos
    model = train.build_branches(
        chosen,
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
        chosen,
        force=force,
        seed=seed,
        precision=precision,
        compile=compile,
        save_every=save_every,
        workers=workers,
        settings=_began_with(model),
        progress=_bar,
    )
    _done(photos, output)


@app.command("frozen")
def train_frozen(
    output: Annotated[Path, typer.Option("--out", help="Folder of the run. An interrupted run resumes there.")],
    images: Images = None,
    labels: Labels = None,
    voc: VOC = None,
    cub: CUB = None,
    split: Split = None,
    start: Annotated[
        str | None,
        typer.Option(help="Trained model whose backbone is used: a name, an address or a folder. Default: bundled."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Training recipe: s16-voc9k.")] = "s16-voc9k",
    tune_list: Annotated[
        str | None,
        typer.Option(help="List of --voc whose masks choose the margin of each class. Default: no masks (Otsu)."),
    ] = None,
    set_: Changes = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a model that needs no labels afterwards, on features of a frozen backbone.

    The trained model is written to OUT/model; use it as `--model local-dir:OUT/model`.
    Several processes: `torchrun --nproc-per-node N -m -- crt.cli train frozen ...`
    """
    train = _library()
    from crt.data import ImageDataset
    from crt.pipeline import FitRecipe, load_start

    if tune_list is not None and voc is None:
        raise ValueError("--tune-list names a list of --voc.")
    tuned = ["margins=tuned"] if tune_list is not None else []
    chosen = train.make_recipe(recipe, [*tuned, *(set_ or [])], stage=train.recipe.FrozenRecipe)
    check_apart(output, images, labels)
    photos = labelled_images(images, labels, voc, cub, split)
    truth = ImageDataset.from_voc(voc, tune_list, masks=True) if voc is not None and tune_list is not None else None
    model = load_start(FitRecipe(start=start, seed=seed), photos.class_names, find_device(device))
    train.train_frozen(model, photos, output, chosen, truth=truth, force=force, seed=seed, progress=_bar)
    _done(photos, output)


@app.command("refine")
def train_refine(
    output: Annotated[Path, typer.Option("--out", help="Folder of the run. An interrupted run resumes there.")],
    masks: Annotated[Path, typer.Option(help="Confident masks of the images, from `crt pseudo --threshold LOW,HIGH`.")],
    images: Images = None,
    labels: Labels = None,
    voc: VOC = None,
    cub: CUB = None,
    split: Split = None,
    recipe: Annotated[str, typer.Option(help="Training recipe: irn-lite0-voc9k or irn-paper.")] = "irn-lite0-voc9k",
    set_: Changes = None,
    backbone_checkpoint: Annotated[
        Path | None, typer.Option(help="ImageNet weights (a safetensors file from timm). Default: timm downloads them.")
    ] = None,
    pretrained: Pretrained = True,
    seed: Seed = 0,
    precision: Precision = None,
    save_every: SaveEvery = 200,
    workers: Workers = 1,
) -> None:
    """Train a boundary network (IRN) on pseudo masks, to refine maps.

    Use it as `crt pseudo --refine local-dir:OUT/model`.
    Several processes: `torchrun --nproc-per-node N -m -- crt.cli train refine ...`
    """
    train = _library()
    chosen = train.make_recipe(recipe, set_ or [], stage=train.recipe.RefineRecipe)
    check_apart(output, images, labels)
    photos = labelled_images(images, labels, voc, cub, split).with_masks(masks)
    model = train.build_boundary_net(chosen, backbone_checkpoint=backbone_checkpoint, pretrained=pretrained, seed=seed)
    train.train_refine(
        model,
        photos,
        output,
        chosen,
        seed=seed,
        precision=precision,
        save_every=save_every,
        workers=workers,
        settings=_began_with(model),
        progress=_bar,
    )
    _done(photos, output)


@app.command("segment")
def train_segment(
    output: Annotated[Path, typer.Option("--out", help="Folder of the run. An interrupted run resumes there.")],
    masks: Annotated[Path, typer.Option(help="Pseudo masks of the images, from `crt pseudo`.")],
    images: Images = None,
    labels: Labels = None,
    voc: VOC = None,
    cub: CUB = None,
    split: Split = None,
    start: Annotated[Path | None, typer.Option(help="Start from a trained model: a folder, such as RUN/model.")] = None,
    recipe: Annotated[
        str, typer.Option(help="Training recipe: segment, segment-deeplab or t16-voc9k-segment.")
    ] = "segment",
    arch: Annotated[
        str | None, typer.Option(help="crt, or an architecture of segmentation_models.pytorch, such as deeplabv3plus.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Its encoder; tu-NAME is timm's NAME, such as tu-tf_efficientnet_lite2.")
    ] = None,
    set_: Changes = None,
    backbone_checkpoint: Annotated[
        Path | None, typer.Option(help="ImageNet weights (a safetensors file from timm). Default: timm downloads them.")
    ] = None,
    pretrained: Pretrained = True,
    seed: Seed = 0,
    precision: Precision = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the network with torch.compile.")] = False,
    save_every: SaveEvery = 200,
    workers: Workers = 1,
) -> None:
    """Train a segmentation network on pseudo masks; it needs no labels afterwards.

    The trained network is written to OUT/model; use it as `--model local-dir:OUT/model`.
    Several processes: `torchrun --nproc-per-node N -m -- crt.cli train segment ...`
    """
    train = _library()
    named = {"arch": arch, "encoder": encoder}
    changes = [f"{name}={json.dumps(value)}" for name, value in named.items() if value is not None]
    chosen = train.make_recipe(recipe, [*(set_ or []), *changes], stage=train.recipe.SegmentRecipe)
    check_apart(output, images, labels)
    photos = labelled_images(images, labels, voc, cub, split).with_masks(masks)
    weights = {"start": start, "backbone_checkpoint": backbone_checkpoint, "pretrained": pretrained}
    model = train.build_segmenter(chosen, photos.class_names, **weights, seed=seed)
    train.train_segment(
        model,
        photos,
        output,
        chosen,
        seed=seed,
        precision=precision,
        compile=compile,
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
    if not err.is_terminal:
        yield from progress_lines(steps, first, total, status)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", completed=first, total=total)
        for step in steps:
            yield step
            bar.update(task, advance=1, description=status())


def _done(photos: Any, output: Path) -> None:
    """The last line on the screen, of the first process alone."""
    if os.environ.get("RANK", "0") == "0":
        say(f"{len(photos)} images, {len(photos.class_names)} classes -> {output / 'model'}")
