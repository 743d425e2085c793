"""``crt demo``: a page for trying the models."""

from typing import Annotated

import typer

from crt.cli.common import Model, one_line_errors, out


def demo(
    model: Model = "crt_vit_t16",
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is reachable from this machine only.")
    ] = ("127.0.0.1"),
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port (default: the first free one from 7860).")
    ] = (None),
    share: Annotated[bool, typer.Option("--share", help="Publish the page through gradio's servers.")] = False,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
) -> None:
    """Try the models in a browser: drop photos, choose classes, move the threshold, download masks (extra `demo`)."""
    with one_line_errors():
        try:
            from crt.demo.page import launch
        except ModuleNotFoundError as error:
            raise ValueError(f"the page needs {error.name}: pip install 'crt-wsss[demo]'.") from error
        address = launch(model, host=host, port=port, share=share, open_browser=browser, block=False)
        out.print(f"{address} (Ctrl-C stops it)", highlight=False, soft_wrap=True)
        import threading

        threading.Event().wait()
