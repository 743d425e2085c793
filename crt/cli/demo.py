"""``crt demo``: a page for trying the models."""

import threading
from typing import Annotated

import typer

from crt.cli.options import DEFAULT_MODEL, Model
from crt.cli.screen import say

HOST = "127.0.0.1"


def demo(
    model: Model = DEFAULT_MODEL,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is reachable from this machine only.")
    ] = HOST,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port. Default: the first free one from 7860.")] = (
        None
    ),
    share: Annotated[bool, typer.Option("--share", help="Publish the page through gradio's servers.")] = False,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
) -> None:
    """Try the models on a page in your browser (pip install 'crt-wsss\\[demo]').

    Drop images, choose or predict classes, move the threshold, download masks. Nothing leaves this machine.
    """
    try:
        from crt.demo.page import launch
    except ModuleNotFoundError as error:
        raise ValueError(f"crt demo needs {error.name}: pip install 'crt-wsss[demo]'.") from error
    say(f"{launch(model, host=host, port=port, share=share, open_browser=browser, block=False)} (Ctrl-C stops it)")
    threading.Event().wait()
