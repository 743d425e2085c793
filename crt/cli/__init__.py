"""The ``crt`` command.  Every verb is one call into the library; bad input ends with one line and exit code 2."""

import logging
from typing import Annotated

import typer
from rich.logging import RichHandler
from rich.table import Table

from crt import __version__
from crt.cli import cam, evaluate, pseudo, train
from crt.cli.common import err, out

__all__ = ["app"]

app = typer.Typer(
    help="Image-level labels in, pixel masks out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(cam.cam)
app.command()(pseudo.pseudo)
app.add_typer(evaluate.app, name="eval")
app.add_typer(train.app, name="train")


def _version(asked: bool) -> None:
    if asked:
        out.print(f"crt-wsss {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the library logs.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(message)s", handlers=[RichHandler(console=err)]
    )


@app.command()
def models(
    filter: Annotated[str, typer.Argument(help="Show only names that hold this text or match this pattern.")] = "",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only those with trained weights.")] = False,
) -> None:
    """List the models."""
    import crt

    table = Table("model", "trained weights")
    tagged = crt.list_models(pretrained=True)
    for name in crt.list_models(filter):
        tags = [full.split(".", 1)[1] for full in tagged if full.split(".", 1)[0] == name]
        if tags or not pretrained:
            table.add_row(name, ", ".join(tags) or "-")
    out.print(table)
