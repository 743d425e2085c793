"""``crt fit``: from labels to a model that segments new images."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from crt._messages import printable
from crt.cli.common import class_list, find_device
from crt.cli.options import Classes, Data, Device, RunFolder, grouped
from crt.cli.screen import complain, err, out, say, step_bar


@grouped
def fit(
    *,
    output: RunFolder,
    source: Data,
    classes: Classes = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="Trained model whose backbone is used: a name, local-dir:FOLDER or hf-hub:ORG/NAME. Default: bundled."
        ),
    ] = None,
    refine: Annotated[
        str, typer.Option(help="Refiners for the maps, joined by +; none leaves the maps as they are.")
    ] = "pamr",
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
    encoder: Annotated[str | None, typer.Option(help="Encoder of --arch; tu-NAME takes timm's NAME.")] = None,
    encoder_checkpoint: Annotated[
        Path | None, typer.Option(help="ImageNet weights of the encoder (safetensors). Default: timm downloads them.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting of --segment net: NAME=VALUE. Can be repeated.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Folder of ground-truth masks (NAME.png) of some images, to measure each stage; not used in training."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train even if a class is in every image, or in none.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
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
    source.check_apart(output)
    unusable: list[str] = []
    photos = source.load(class_list(classes), unusable=unusable)
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
        source=source.command(classes),
        progress=_show_steps,
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
        raise ValueError(f"crt fit needs {error.name}: pip install 'crt-wsss[train]'.") from error
    return crt.pipeline, crt.train.recipe


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


def _show_steps(steps: Iterable[Any], first: int, total: int, status: Callable[[], str]) -> Iterable[Any]:
    """A bar for each long step; where stderr is not a terminal, a line as each begins."""
    if err.is_terminal:
        return step_bar(steps, first, total, lambda: status() or "features")
    err.print(Text(f"{printable(status()) or 'features'}: {total - first}"), highlight=False)
    return steps
