"""The figures of "How it works" and of the tutorials, made by the library.

python docs/make_figures.py
"""

from pathlib import Path

import torch
from PIL import Image

from crt import CAMExtractor, create_model, create_refiner
from crt.cam import PRESETS
from crt.cam.views import choose_tiling, plan_views
from crt.images import open_image
from crt.viz import contact_sheet, draw_boxes, draw_mask, heat_map, under_title

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
PHOTOS = ROOT / "examples" / "photos"
CLASS = "person"
COLORS = [(230, 60, 60), (40, 140, 230), (240, 170, 30), (60, 180, 90), (160, 90, 200), (20, 180, 180)]


def write(name: str, pictures: list[Image.Image], titles: list[str], height: int = 200) -> None:
    """A row of pictures with titles."""
    scaled = [p.resize((round(height * p.width / p.height), height), Image.LANCZOS) for p in pictures]
    titled = [under_title(picture, title) for picture, title in zip(scaled, titles, strict=True)]
    contact_sheet([titled], height=titled[0].height, gap=8).save(FIGURES / name, optimize=True)


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    model = create_model("crt_vit_t16", pretrained=True)  # which sees tiles
    image = open_image(PHOTOS / "astronaut.jpg")
    photo = Image.open(PHOTOS / "astronaut.jpg").convert("RGB")
    fast = PRESETS["fast"]

    # Tiles: each scale of the preset, with the borders of its tiles.
    tiling = choose_tiling(model, fast["tile"], fast["stride"])
    pictures, titles = [], []
    for scale in fast["scales"][:3]:
        [view] = plan_views(*image.shape[-2:], tiling, scales=(scale,), flip=False, max_side=640)
        height, width = view.size
        picture = photo.resize((width, height))
        for number, (top, left) in enumerate(view.corners):
            box = (left, top, min(width, left + view.tile[1]), min(height, top + view.tile[0]))
            picture = draw_boxes(picture, [box], COLORS[number % len(COLORS)], width=3)
        pictures.append(picture)
        count = len(view.corners)
        titles.append(f"scale {scale}: {width} x {height}, {count} tile{'s' if count > 1 else ''}")
    write("tiles.png", pictures, titles)

    # Maps of single scales, and their sum.
    pictures, titles = [], []
    for scale in (0.44, 0.88, 1.76):
        [result] = CAMExtractor(model, scales=(scale,), flip=False, tile="own", stride=224)(image, CLASS)
        pictures.append(heat_map(image, result.cam[0]))
        titles.append(f"scale {scale}")
    [result] = CAMExtractor(model, **fast)(image, CLASS)
    write("scales.png", [*pictures, heat_map(image, result.cam[0])], [*titles, "four scales (fast)"])

    # The same map cut at three thresholds, by the default model.
    model = create_model("crt_vit_s16", pretrained=True)
    [result] = CAMExtractor(model, **PRESETS["whole"])(image, CLASS)
    levels = (0.1, model.seed_threshold, 0.9)
    masks = [draw_mask(image, result.mask(level), model.class_names, tags=False) for level in levels]
    write("thresholds.png", masks, [f"threshold {level:.2f}" for level in levels])

    # Before and after refiners.
    pictures, titles = [draw_mask(image, result.mask(), model.class_names, tags=False)], ["seed"]
    for name in ("pamr", "irn_lite0"):
        refined = result.refined(create_refiner(name, pretrained=True, model=model))
        pictures.append(draw_mask(image, refined.mask(), model.class_names, tags=False))
        titles.append(name)
    write("refiners.png", pictures, titles)

    # The result of the start page.
    [result] = CAMExtractor(model, **PRESETS["whole"])(PHOTOS / "pasture.jpg", ["dog", "horse", "person"])
    result.panel().save(FIGURES / "panel.png", optimize=True)

    # A map of random scores, thresholded, against a disc: what the measuring tutorial draws.
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    cam = torch.exp(-2 * (x.square() + y.square()))
    truth = ((x - 0.1).square() + y.square() < 0.35).long()
    plain = torch.full((3, 96, 96), 190, dtype=torch.uint8)
    pictures = [heat_map(plain, cam), draw_mask(plain, truth, ["disc"], tags=False)]
    write("disc.png", [*pictures, draw_mask(plain, (cam > 0.5).long(), ["disc"], tags=False)], ["map", "truth", "seed"])


if __name__ == "__main__":
    main()
