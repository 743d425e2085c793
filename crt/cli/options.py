"""The grammar that all verbs share: each option is declared here once, and options that go together form a group."""

import functools
import inspect
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

if TYPE_CHECKING:
    from crt.data import ImageDataset

__all__ = [
    "DEFAULT_MODEL",
    "BFloat16",
    "BatchSize",
    "Classes",
    "Data",
    "Device",
    "Flip",
    "Machine",
    "Model",
    "Refine",
    "RunFolder",
    "Scales",
    "Seen",
    "Truth",
    "grouped",
]

_DATA, _VIEW, _MACHINE = "Data set", "How images are seen", "Machine"

Images = Annotated[
    Path | None,
    typer.Option(
        help="Folder of images. Give --labels too, unless each subfolder holds the images of one class.",
        rich_help_panel=_DATA,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Labels of --images: a CSV file with the columns file,labels; JSON from COCO, Label Studio or FiftyOne; "
        "or XML from CVAT.",
        rich_help_panel=_DATA,
    ),
]
VOC = Annotated[
    Path | None, typer.Option(help="Instead of --images: a folder laid out as PASCAL VOC.", rich_help_panel=_DATA)
]
CUB = Annotated[
    Path | None, typer.Option(help="Instead of --images: a folder laid out as CUB-200-2011.", rich_help_panel=_DATA)
]
Split = Annotated[
    str | None,
    typer.Option(
        "--list",
        help="Which images of the data set: a list in ImageSets/Segmentation of --voc (`crt eval` needs one; elsewhere "
        "the default is cls_train), or train or test of --cub.",
        rich_help_panel=_DATA,
    ),
]
Truth = Annotated[
    Path | None,
    typer.Option(help="Folder of ground-truth masks for --images, one NAME.png per image.", rich_help_panel=_DATA),
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Class names in mask order, separated by commas, or a text file with one per line. "
        "Default: the model's or the data set's.",
        rich_help_panel=_DATA,
    ),
]

DEFAULT_MODEL = "crt_vit_s16"
Model = Annotated[
    str, typer.Option(help="Model: a name from `crt models`, local-dir:FOLDER, or hf-hub:ORG/NAME from the Hub.")
]
Refine = Annotated[
    str,
    typer.Option(
        help="Refiners for the maps, joined by +: affinity, attention, crf, irn_lite0, pamr, or local-dir:RUN/model; "
        "none leaves the maps as they are."
    ),
]

Preset = Annotated[
    str | None,
    typer.Option(
        help="Preset: fast, whole (the image at once, not in tiles) or paper (more scales, overlapping tiles; slower). "
        "Default: whole for models trained to see whole images, fast for others.",
        rich_help_panel=_VIEW,
    ),
]
Scales = Annotated[
    str | None,
    typer.Option(help="Image scales, separated by commas; replaces the preset's.", rich_help_panel=_VIEW),
]
Flip = Annotated[
    bool | None,
    typer.Option("--flip/--no-flip", help="Also see the mirrored image; replaces the preset's.", rich_help_panel=_VIEW),
]
Stride = Annotated[
    int | None,
    typer.Option(min=1, help="Tile stride in pixels. Default: the preset's, then the model's.", rich_help_panel=_VIEW),
]

Device = Annotated[
    str,
    typer.Option(
        help="Device to compute on: auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:N or mps.",
        rich_help_panel=_MACHINE,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(min=1, help="Tiles computed at once; lower it if memory runs out.", rich_help_panel=_MACHINE),
]
BFloat16 = Annotated[
    bool,
    typer.Option("--bf16", help="Compute in bfloat16 (autocast): faster on recent GPUs.", rich_help_panel=_MACHINE),
]
RunFolder = Annotated[Path, typer.Option("--out", help="Folder of the run. An interrupted run resumes there.")]


class Data(NamedTuple):
    """The options that name a data set, as they were given."""

    images: Images = None
    labels: Labels = None
    voc: VOC = None
    cub: CUB = None
    split: Split = None

    @property
    def root(self) -> Path | None:
        """The folder."""
        return self.voc or self.cub or self.images

    def load(
        self,
        class_names: Sequence[str] | None = None,
        *,
        truth: Path | bool | None = None,
        unusable: list[str] | None = None,
    ) -> "ImageDataset":
        """The data set; arguments and errors as of ``crt.data.load_dataset``."""
        from crt.data import load_dataset

        return load_dataset(**self._asdict(), truth=truth, class_names=class_names, unusable=unusable)

    def check_apart(self, output: Path) -> None:
        """ValueError if the output lies where each subfolder is a class of images."""
        folder, own = self.images, output.resolve()
        if folder is not None and self.labels is None and folder.resolve() in (own, *own.parents):
            raise ValueError(
                f"--out {output} lies in {folder}, where each subfolder is a class; choose another folder."
            )

    def command(self, classes: str | None = None) -> str:
        """The options as they were typed."""
        given = {**self._asdict(), "list": self.split, "classes": classes, "split": None}
        return " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None)


class Seen(NamedTuple):
    """How images are seen."""

    preset: Preset = None
    scales: Scales = None
    flip: Flip = None
    stride: Stride = None


class Machine(NamedTuple):
    """Where and how it is computed."""

    bf16: BFloat16 = False
    device: Device = "auto"
    batch_size: BatchSize = 16


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command for Typer: each parameter whose type is a group becomes the options of the group."""
    given = inspect.signature(command).parameters
    groups = {name: p.annotation for name, p in given.items() if hasattr(p.annotation, "_field_defaults")}
    flat: list[inspect.Parameter] = []
    for name, parameter in given.items():
        group = groups.get(name)
        if group is None:
            flat.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        types = get_type_hints(group, include_extras=True)
        flat += [
            inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[field])
            for field, default in group._field_defaults.items()
        ]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        own = {name: group(*map(values.pop, group._fields)) for name, group in groups.items()}
        command(**values, **own)

    run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return run
