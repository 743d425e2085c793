"""``crt models``: which models there are."""

from typing import Annotated

import typer
from rich.table import Table

from crt.cli.screen import out


def models(
    filter: Annotated[
        str, typer.Argument(help="Show only names that contain this text or match this pattern (*t16*).")
    ] = "",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Show only models with trained weights.")] = False,
) -> None:
    """List the models and their trained weights."""
    import crt

    table = Table("model", "trained weights")
    tagged = crt.list_models(pretrained=True)
    for name in crt.list_models(filter):
        tags = [full.split(".", 1)[1] for full in tagged if full.split(".", 1)[0] == name]
        if tags or not pretrained:
            table.add_row(name, ", ".join(tags) or "-")
    out.print(table)
