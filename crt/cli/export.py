"""``crt export``: a model as an ONNX file."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from crt.cli.screen import say


def export(
    model: Annotated[
        str, typer.Argument(help="Model: a name from `crt models`, local-dir:FOLDER, or hf-hub:ORG/NAME from the Hub.")
    ],
    onnx: Annotated[Path, typer.Option("--onnx", help="ONNX file to write.")],
    graph: Annotated[
        Literal["segment", "cam"],
        typer.Option(
            help="Output: segment (scores of background and classes per pixel) or cam (class maps on the patch grid)."
        ),
    ] = "segment",
    size: Annotated[
        str | None,
        typer.Option(
            help="Input size: HEIGHTxWIDTH in pixels, multiples of the patch (448x448), or any for a dynamic size.",
            show_default="the model's tile",
        ),
    ] = None,
) -> None:
    """Export a model to ONNX: from a normalized image to segmentation scores or class maps."""
    import crt

    network: Any = crt.create_model(model, pretrained=True)
    network.export(onnx, graph=graph, size=_size(size))
    shape = "B x 3 x H x W" if size == "any" else f"B x 3 x {size or f'{network.tile}x{network.tile}'}"
    say(f"{model}: {graph} of {shape} -> {onnx}")


def _size(text: str | None) -> Any:
    if text is None or text == "any":
        return text
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() and len(part) < 6 for part in parts):
        raise ValueError(f"--size is HEIGHTxWIDTH in pixels, such as 448x448, or any; got {text[:40]!r}.")
    return int(parts[0]), int(parts[1])
