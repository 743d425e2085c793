"""``crt train``: training."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from crt.cli.common import find_device
from crt.cli.options import Data, Device, RunFolder, grouped
from crt.cli.screen import say, step_bar

if TYPE_CHECKING:
    from torch import nn

    from crt.data import ImageDataset

Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting of the recipe: NAME=VALUE. Can be repeated.")
]
Pretrained = Annotated[bool, typer.Option(help="Start from ImageNet weights; --no-pretrained starts from random ones.")]
Start = Annotated[Path | None, typer.Option(help="Folder of a trained model to start from, such as RUN/model.")]
Weights = Annotated[
    Path | None,
    typer.Option(help="ImageNet weights of the backbone (a safetensors file from timm). Default: timm downloads them."),
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the networks with torch.compile.")]
Force = Annotated[bool, typer.Option("--force", help="Train even if a class is in every image, or in none.")]

Seed = Annotated[int, typer.Option(help="Random seed.")]
FROZEN = ("freeze_backbone=true", "cnn=null", "mask=0")  # what --freeze-backbone sets

app = typer.Typer(no_args_is_help=True)


class Run(NamedTuple):
    """How any training runs."""

    seed: Seed = 0
    precision: Annotated[
        str | None, typer.Option(help="Precision: no (float32) or bf16. Default: that of `accelerate launch`, else no.")
    ] = None
    save_every: Annotated[int, typer.Option(min=1, help="Training steps between checkpoints.")] = 200
    workers: Annotated[int, typer.Option(min=0, help="Number of processes that load images.")] = 1

    def options(self, model: "nn.Module") -> dict[str, Any]:
        """For the library; a run that resumes must have begun with the same model."""
        from crt._files import tensors_digest

        settings = {"start": tensors_digest(model.state_dict())}
        return {**self._asdict(), "settings": settings, "progress": step_bar}


@app.callback()
def _group() -> None:
    """Train on your own images (pip install 'crt-wsss\\[train]')."""


@app.command("cam")
@grouped
def train_cam(
    *,
    output: RunFolder,
    source: Data,
    masks: Annotated[
        Path | None,
        typer.Option(help="Pseudo masks of the images (from `crt pseudo`), for recipes that train on masks."),
    ] = None,
    start: Start = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Training recipe: t16-voc9k, t16-voc9k-masks, t16-cub50, frozen, paper or paper-wsol.",
            show_default="t16-voc9k",
        ),
    ] = None,
    set_: Changes = None,
    backbone_checkpoint: Weights = None,
    cnn_checkpoint: Annotated[
        Path | None,
        typer.Option(help="ImageNet weights of the CNN (a safetensors file from timm). Default: timm downloads them."),
    ] = None,
    pretrained: Pretrained = True,
    freeze_backbone: Annotated[
        bool,
        typer.Option(
            "--freeze-backbone", help="Train only the head, in minutes, on features that are kept in OUT/features."
        ),
    ] = False,
    force: Force = False,
    compile: Compile = False,
    run: Run,
) -> None:
    """Train a model on image-level labels.

    The trained model is written to OUT/model; use it as `--model local-dir:OUT/model`.
    Several processes: `torchrun --nproc-per-node N -m -- crt.cli train cam ...`
    """
    train = _library()
    chosen = train.make_recipe(
        recipe or ("frozen" if freeze_backbone else "t16-voc9k"),
        [*(set_ or []), *(FROZEN if freeze_backbone else [])],
        stage=train.recipe.CAMRecipe,
    )
    photos = _load(source, output, masks)
    weights = {"start": start, "backbone_checkpoint": backbone_checkpoint, "pretrained": pretrained}
    model = train.build_branches(chosen, photos.class_names, **weights, cnn_checkpoint=cnn_checkpoint, seed=run.seed)
    train.train_cam(model, photos, output, chosen, force=force, compile=compile, **run.options(model))
    _done(photos, output)


@app.command("frozen")
@grouped
def train_frozen(
    *,
    output: RunFolder,
    source: Data,
    start: Annotated[
        str | None,
        typer.Option(
            help="Trained model whose backbone is used: a name, local-dir:FOLDER or hf-hub:ORG/NAME. Default: bundled."
        ),
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

    truth, changes = None, set_ or []
    if tune_list is not None:
        if source.voc is None:
            raise ValueError("--tune-list names a list of --voc.")
        truth, changes = ImageDataset.from_voc(source.voc, tune_list, masks=True), ["margins=tuned", *changes]
    chosen = train.make_recipe(recipe, changes, stage=train.recipe.FrozenRecipe)
    photos = _load(source, output)
    model = load_start(FitRecipe(start=start, seed=seed), photos.class_names, find_device(device))
    train.train_frozen(model, photos, output, chosen, truth=truth, force=force, seed=seed, progress=step_bar)
    _done(photos, output)


@app.command("refine")
@grouped
def train_refine(
    *,
    output: RunFolder,
    masks: Annotated[Path, typer.Option(help="Confident masks of the images, from `crt pseudo --threshold LOW,HIGH`.")],
    source: Data,
    recipe: Annotated[str, typer.Option(help="Training recipe: irn-lite0-voc9k or irn-paper.")] = "irn-lite0-voc9k",
    set_: Changes = None,
    backbone_checkpoint: Weights = None,
    pretrained: Pretrained = True,
    run: Run,
) -> None:
    """Train a boundary network (IRN) on pseudo masks, to refine maps.

    Use it as `crt pseudo --refine local-dir:OUT/model`.
    Several processes: `torchrun --nproc-per-node N -m -- crt.cli train refine ...`
    """
    train = _library()
    chosen = train.make_recipe(recipe, set_ or [], stage=train.recipe.RefineRecipe)
    photos = _load(source, output, masks)
    weights = {"backbone_checkpoint": backbone_checkpoint, "pretrained": pretrained}
    model = train.build_boundary_net(chosen, **weights, seed=run.seed)
    train.train_refine(model, photos, output, chosen, **run.options(model))
    _done(photos, output)


@app.command("segment")
@grouped
def train_segment(
    *,
    output: RunFolder,
    masks: Annotated[Path, typer.Option(help="Pseudo masks of the images, from `crt pseudo`.")],
    source: Data,
    start: Start = None,
    recipe: Annotated[
        str, typer.Option(help="Training recipe: segment, segment-deeplab or t16-voc9k-segment.")
    ] = "segment",
    arch: Annotated[
        str | None,
        typer.Option(help="Network: crt, or an architecture of segmentation_models.pytorch, such as deeplabv3plus."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Encoder of --arch; tu-NAME takes timm's NAME, such as tu-tf_efficientnet_lite2."),
    ] = None,
    set_: Changes = None,
    backbone_checkpoint: Weights = None,
    pretrained: Pretrained = True,
    compile: Compile = False,
    run: Run,
) -> None:
    """Train a segmentation network on pseudo masks; it needs no labels afterwards.

    The trained network is written to OUT/model; use it as `--model local-dir:OUT/model`.
    Several processes: `torchrun --nproc-per-node N -m -- crt.cli train segment ...`
    """
    train = _library()
    named = {"arch": arch, "encoder": encoder}
    changes = [f"{name}={json.dumps(value)}" for name, value in named.items() if value is not None]
    chosen = train.make_recipe(recipe, [*(set_ or []), *changes], stage=train.recipe.SegmentRecipe)
    photos = _load(source, output, masks)
    weights = {"start": start, "backbone_checkpoint": backbone_checkpoint, "pretrained": pretrained}
    model = train.build_segmenter(chosen, photos.class_names, **weights, seed=run.seed)
    train.train_segment(model, photos, output, chosen, compile=compile, **run.options(model))
    _done(photos, output)


def _load(source: Data, output: Path, masks: Path | None = None) -> "ImageDataset":
    """The images, with their pseudo masks if there are any."""
    source.check_apart(output)
    photos = source.load()
    return photos.with_masks(masks) if masks else photos


def _library() -> Any:
    """``crt.train``; ValueError that names the extra if a package of it is missing."""
    try:
        import crt.train
    except ModuleNotFoundError as error:
        raise ValueError(f"crt train needs {error.name}: pip install 'crt-wsss[train]'.") from error
    return crt.train


def _done(photos: "ImageDataset", output: Path) -> None:
    """The last line on the screen, of the first process alone."""
    if os.environ.get("RANK", "0") == "0":
        say(f"{len(photos)} images, {len(photos.class_names)} classes -> {output / 'model'}")
