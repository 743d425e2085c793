"""The page: choices on the left, pictures on the right (gradio)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from crt.cam import PRESETS, CAMResult
from crt.demo import work
from crt.models import list_models
from crt.refine import list_refiners

__all__ = ["build_page", "launch"]

P = ParamSpec("P")
R = TypeVar("R")
MAX_FILE_SIZE = "20mb"
BUTTONS: list[Any] = ["download", "fullscreen"]  # none that shares
KEEP = 3600  # seconds until an upload is removed
INTRO = """# crt: from labels to masks
Drop a photo, say what it shows or let the model predict it, and see where it is. Nothing leaves this machine.
"""


def build_page(model: str | None = None) -> gr.Blocks:
    """The page, not yet started.

    Args:
        model: the model that is chosen at first; None takes the default of the first architecture with weights.
    """
    names = list_models(pretrained=True)
    chosen = model or names[0]
    names = names if chosen in names else [chosen, *names]
    with gr.Blocks(title="crt", analytics_enabled=False, delete_cache=(KEEP, KEEP)) as page:
        gr.Markdown(INTRO)
        with gr.Row():
            with gr.Column(scale=1):
                settings = _settings(names, chosen)
            with gr.Column(scale=2):
                with gr.Tab("One photo"):
                    _photo_tab(*settings)
                with gr.Tab("Many photos"):
                    _batch_tab(*settings)
    return page


def launch(
    model: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    open_browser: bool = False,
    block: bool = True,
) -> str:
    """Builds and serves the page.

    Args:
        model: see ``build_page``.
        host: address to listen on; the default can be reached from this machine only.
        port: None takes a free one from 7860 on.
        share: publish it through gradio's servers.
        open_browser: open it in the browser.
        block: return only when it is stopped.

    Returns:
        The page's address.
    """
    _, address, _ = build_page(model).launch(
        server_name=host,
        server_port=port,
        share=share,
        inbrowser=open_browser,
        prevent_thread_lock=not block,
        max_file_size=MAX_FILE_SIZE,
        show_error=True,
        footer_links=[],
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # none from the network
        quiet=True,
    )
    return address


def _settings(names: list[str], chosen: str) -> tuple[gr.Dropdown, gr.Dropdown, gr.Radio, gr.Dropdown, gr.Slider]:
    """Model, classes, preset, refiner, threshold."""
    network = work.load(chosen)
    model = gr.Dropdown(names, value=chosen, label="Model")
    classes = gr.Dropdown(
        list(network.class_names or ()),
        multiselect=True,
        label="Classes in the photo",
        info="Leave it empty to have them predicted.",
        elem_id="classes",
    )
    preset = gr.Radio(list(PRESETS), value="whole" if network.whole else "fast", label="Way of seeing")
    refiner = gr.Dropdown(["none", *list_refiners()], value="pamr", label="Refiner")
    threshold = gr.Slider(
        0, 1, value=network.seed_threshold, step=0.01, label="Background threshold", elem_id="threshold"
    )

    def change(name: str) -> tuple[Any, float, str]:
        found = work.load(name)
        names = gr.update(choices=list(found.class_names or ()), value=[])
        return names, found.seed_threshold, "whole" if found.whole else "fast"

    model.change(_told(change), model, [classes, threshold, preset])
    return model, classes, preset, refiner, threshold


def _photo_tab(
    model: gr.Dropdown, classes: gr.Dropdown, preset: gr.Radio, refiner: gr.Dropdown, threshold: gr.Slider
) -> None:
    result = gr.State(None)
    photo = gr.File(label="Photo", file_types=["image"], elem_id="photo", height=120)
    with gr.Row():
        predict = gr.Button("Predict classes")
        run = gr.Button("Find them", variant="primary", elem_id="run")
    mask = gr.Image(label="Mask", interactive=False, elem_id="mask", format="png", buttons=BUTTONS)
    maps = gr.Gallery(label="Maps", columns=3, height=230, object_fit="contain", format="png", buttons=BUTTONS)
    boxes = gr.Dataframe(headers=["class", "x0", "y0", "x1", "y1", "% of photo"], label="Boxes", interactive=False)
    download = gr.DownloadButton("Download mask, picture and boxes", visible=False)

    def compute(file: str | None, *options: Any) -> tuple[CAMResult, Any, Any]:
        found = work.compute(_request(file, *options))
        return found, work.heat_maps(found), gr.update(visible=True)

    def cut(found: CAMResult | None, level: float) -> tuple[Any, Any]:
        if found is None:
            return None, None
        return work.mask_picture(found, level), work.boxes_table(found, level)

    def guess(file: str | None, name: str, way: str) -> list[str]:
        return work.predict_classes(_request(file, name, (), way, "none").photo, name, way)

    def save(found: CAMResult | None, level: float) -> str | None:
        return None if found is None else work.pack([("photo", found)], level)

    options = [model, classes, preset, refiner]
    predict.click(_told(guess), [photo, model, preset], classes)
    run.click(_told(compute), [photo, *options], [result, maps, download]).success(
        _told(cut), [result, threshold], [mask, boxes]
    ).success(_told(save), [result, threshold], download)
    threshold.input(_told(cut), [result, threshold], [mask, boxes], trigger_mode="always_last").success(
        _told(save), [result, threshold], download
    )


def _batch_tab(
    model: gr.Dropdown, classes: gr.Dropdown, preset: gr.Radio, refiner: gr.Dropdown, threshold: gr.Slider
) -> None:
    files = gr.File(label="Photos", file_count="multiple", file_types=["image"], elem_id="photos")
    run = gr.Button("Find classes in all", variant="primary")
    report = gr.Markdown()
    pictures = gr.Gallery(label="Masks", columns=3, object_fit="contain", format="png", buttons=BUTTONS)
    download = gr.DownloadButton("Download all as zip", visible=False)

    def compute(
        chosen: list[str] | None,
        *options: Any,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (gradio's way)
    ) -> tuple[Any, Any, Any]:
        *choices, level = options
        if not chosen:
            raise ValueError("choose photos first.")
        name, names, way, refine = choices
        done, failed = [], []
        batch = work.run_batch(chosen, names or (), name, way, refine)
        for title, found, problem in progress.tqdm(batch, total=len(chosen), desc="photos"):
            failed.append(problem) if found is None else done.append((title, found))
        shown = [(work.mask_picture(found, level), title) for title, found in done]
        text = f"{len(done)} of {len(chosen)} photos." + "".join(f"\n- {problem}" for problem in failed)
        return shown, text, gr.update(value=work.pack(done, level), visible=bool(done))

    run.click(_told(compute), [files, model, classes, preset, refiner, threshold], [pictures, report, download])


def _request(file: str | None, model: str, classes: Sequence[str] | None, preset: str, refiner: str) -> work.Request:
    if not file:
        raise ValueError("choose a photo first.")
    return work.Request(file, tuple(classes or ()), model, preset, refiner)


def _told(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose errors become a message on the page, without the paths of uploads."""

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        try:
            return function(*args, **options)
        except (ValueError, TypeError, OSError, MemoryError) as error:
            files = [value for value in args if isinstance(value, str) and "/" in value]
            text = work.short_message(error, *files)
            raise gr.Error(text, print_exception=False) from error

    return call
