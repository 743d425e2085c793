"""The page of ``crt demo``: its work without a browser, and the page in a real one."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crt.cam import CAMResult

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "chelsea.jpg"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def result():
    maps = torch.zeros(1, 200, 300)
    maps[0, 50:150, 100:200] = 0.5
    maps[0, 80:120, 120:180] = 1.0
    pixels = torch.full((3, 200, 300), 90, dtype=torch.uint8)
    return CAMResult(maps=maps, labels=[1], class_names=["ant", "bee"], seed_threshold=0.3, pixels=pixels)


def test_the_threshold_cuts_again_without_computing(result):
    from crt.demo import work

    assert work.boxes_table(result, 0.3) == [["bee", 100, 50, 200, 150, 16.7]]
    assert work.boxes_table(result, 0.7) == [["bee", 120, 80, 180, 120, 4.0]]
    low, high = (np.asarray(work.mask_picture(result, level)).astype(int) for level in (0.3, 0.7))
    assert (low != high).any()


def test_the_zip_holds_masks_pictures_and_boxes(result):
    from crt.demo import work

    with zipfile.ZipFile(work.pack([("a", result), ("b", result)], 0.3)) as file:
        assert sorted(file.namelist()) == ["a.mask.png", "a.png", "b.mask.png", "b.png", "boxes.json"]
        assert json.loads(file.read("boxes.json"))["a"] == {"bee": [100, 50, 200, 150]}
        with file.open("a.mask.png") as mask:
            assert np.asarray(Image.open(mask)).max() == 2


def test_a_broken_photo_does_not_stop_the_others(tmp_path):
    from crt.demo import work

    good, broken = tmp_path / "good.png", tmp_path / "bad\x1b[31m.png"
    Image.open(PHOTO).resize((60, 40)).save(good)
    broken.write_bytes(b"no picture")
    found = list(work.run_batch([str(broken), str(good), str(good)], ["cat"], "crt_vit_t16", "fast", "none"))
    assert [name for name, _, _ in found[1:]] == ["good", "good-2"]
    assert found[0][1] is None and "\x1b" not in found[0][2] and str(tmp_path) not in found[0][2]
    assert found[1][1].names == ["cat"]
    with pytest.raises(ValueError, match="crt pseudo"):
        list(work.run_batch(["x"] * 51, [], "crt_vit_t16", "fast", "none"))


@pytest.fixture(scope="module")
def address():
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    from crt.demo.page import launch

    return launch("crt_vit_t16", block=False)


@pytest.fixture
def page(address):
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    flags += ["--no-first-run", "--disable-component-update", "--disable-sync"]
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(120_000)
        page.goto(address)
        yield page
        browser.close()


def shown(page):
    """The mask's picture, as the page shows it now."""
    picture = page.locator("#mask img").first
    picture.wait_for()
    return picture.get_attribute("src")


def test_a_person_gets_a_mask_and_moves_the_threshold(page, tmp_path):
    page.locator("#photo input[type=file]").set_input_files(str(PHOTO))
    page.locator("#classes input").fill("cat")
    page.get_by_role("option", name="cat", exact=True).click()
    page.locator("#run").click()
    first = shown(page)
    assert page.get_by_text("Download mask, picture and boxes").is_visible()
    slider = page.locator("#threshold input[type=number]")
    slider.fill("0.9")
    slider.press("Enter")
    page.wait_for_function("old => document.querySelector('#mask img')?.getAttribute('src') !== old", arg=first)
    page.screenshot(path=str(tmp_path / "page.png"))
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_a_broken_file_gives_a_message(page, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no photo")
    page.locator("#photo input[type=file]").set_input_files(str(broken))
    page.locator("#run").click()
    page.get_by_text("cannot be read as a photo").first.wait_for()
