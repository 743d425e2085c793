"""The ``crt`` command.  Every verb parses its options, calls the library, and prints.

Bad input ends with one line on stderr and exit code 2, an interrupt with exit code 130; see ``crt.cli.screen``.
"""

from typing import Annotated

import typer

from crt import __version__
from crt.cli import cam, demo, evaluate, export, fit, models, pseudo, segment, train
from crt.cli.screen import SafeGroup, say, start_logging

__all__ = ["app"]

app = typer.Typer(
    cls=SafeGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command()(cam.cam)
app.command()(pseudo.pseudo)
app.command()(fit.fit)
app.command()(segment.segment)
app.add_typer(evaluate.app, name="eval")
app.add_typer(train.app, name="train")
app.command()(models.models)
app.command()(export.export)
app.command()(demo.demo)


def _version(asked: bool) -> None:
    if asked:
        say(f"crt-wsss {__version__}")
        raise typer.Exit


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show progress messages of the library.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """From image-level labels to pixel masks: class activation maps, pseudo masks, training and evaluation."""
    start_logging(verbose)
