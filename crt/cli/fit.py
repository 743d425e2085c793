"""``crt fit``: from labels to a model that segments new images."""

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from crt._messages import printable
from crt.cli.common import (
    CUB,
    VOC,
    Classes,
    Device,
    Images,
    Labels,
    Split,
    check_apart,
    class_list,
    complain,
    err,
    find_device,
    labelled_images,
    out,
    say,
)


def fit(
    output: Annotated[Path, typer.Option("--out", help="Folder of the run. An interrupted run resumes there.")],
    images: Images = None,
    labels: Labels = None,
    voc: VOC = None,
    cub: CUB = None,
    split: Split = None,
    classes: Classes = None,
    start: Annotated[
        str | None,
        typer.Option(help="Trained model whose backbone is used: a name, an address or a folder. Default: bundled."),
    ] = None,
    refine: Annotated[str, typer.Option(help="Refiners of the maps, joined by +, or none.")] = "pamr",
    boundary: Annotated[
        bool, typer.Option("--boundary", help="Also train a boundary network (500 images or more).")
    ] = False,
    segment: Annotated[
        str | None,
        typer.Option(help="Last stage: heads (minutes) or net (the whole network).", show_default="heads"),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(help="Network of --segment net: crt, or one of segmentation_models.pytorch (deeplabv3plus ...)."),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder of --arch, tu-NAME for timm's.")] = None,
    encoder_checkpoint: Annotated[
        Path | None, typer.Option(help="ImageNet weights of the encoder (safetensors). Default: timm downloads them.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting of --segment net: NAME=VALUE. Can be repeated.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="Folder of true masks, NAME.png, of some images: measures each stage; nothing is learned."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although a class is in all images, or in none.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 0,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the stages and how long they may take.")] = False,
) -> None:
    """Turn labeled images into a model that segments new ones.

    Writes OUT/model, for `crt segment --model local-dir:OUT/model`, and OUT/report.html.
    """
    pipeline, recipes = _library()
    changes = {"arch": arch, "encoder": encoder}
    named = [f"{name}={value}" for name, value in changes.items() if value is not None]
    settings: Any = recipes.make_recipe(
        "segment" if arch in (None, "crt") else "segment-deeplab", [*(set_ or []), *named], stage=recipes.SegmentRecipe
    )
    recipe = pipeline.FitRecipe(
        start=start,
        refiner=refine,
        boundary=boundary,
        segment=segment or ("net" if arch is not None or set_ else "heads"),
        segmentation=settings,
        encoder_checkpoint=encoder_checkpoint,
        seed=seed,
    )
    check_apart(output, images, labels)
    unusable: list[str] = []
    photos = labelled_images(images, labels, voc, cub, split, class_names=class_list(classes), unusable=unusable)
    for failure in unusable:
        complain(failure)
    target = find_device(device)
    if dry_run:
        _show_plan(pipeline.plan_fit(photos, recipe, device=target, force=force))
        return
    found = pipeline.fit(
        photos,
        output,
        recipe,
        truth=truth,
        device=target,
        force=force,
        source=_source(images, labels, voc, cub, split, classes),
        progress=_Bar(),
    )
    say(f"{len(photos) - len(found.left_out)} images, {len(photos.class_names)} classes -> {found.folder}")
    say(f"report: {found.report}")
    if found.left_out or unusable:
        raise typer.Exit(2)


def _library() -> tuple[Any, Any]:
    """``crt.pipeline`` and ``crt.train.recipe``; ValueError that names the extra if a package of it is missing."""
    try:
        import crt.pipeline
        import crt.train.recipe
    except ModuleNotFoundError as error:
        raise ValueError(f"a fit needs {error.name}: pip install 'crt-wsss[train]'.") from error
    return crt.pipeline, crt.train.recipe


def _source(images: Any, labels: Any, voc: Any, cub: Any, split: Any, classes: Any) -> str:
    """The options that name the data set, as they were given."""
    given = {"--images": images, "--labels": labels, "--voc": voc, "--cub": cub, "--list": split}
    given["--classes"] = classes
    return " ".join(f"{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None)


def _show_plan(stages: Iterable[Any]) -> None:
    """A row for each stage, and the sum."""
    shown, total = Table("stage", "what it does", "time, about"), 0.0
    for stage in stages:
        shown.add_row(stage.name, Text(printable(stage.text)), _about(stage.seconds))
        total += stage.seconds
    out.print(shown)
    say(f"about {_about(total)} on this machine, from one measured step of each stage; nothing was written")


def _about(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Bar:
    """A bar for each long step; where stderr is not a terminal, a line as each begins."""

    def __call__(self, steps: Iterable[Any], first: int, total: int, status: Callable[[], str]) -> Iterable[Any]:
        if not err.is_terminal:
            err.print(Text(f"{printable(status()) or 'features'}: {total - first}"), highlight=False)
            yield from steps
            return
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task(status(), completed=first, total=total)
            for step in steps:
                yield step
                bar.update(task, advance=1, description=status() or "features")
