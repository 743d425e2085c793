"""The pictures of the README: image, heat map and mask of each example image.

python examples/readme_pictures.py --out docs/readme.png
"""

import argparse
from pathlib import Path

from PIL import Image

from crt import CAMExtractor, create_model, create_refiner
from crt.cam import PRESETS
from crt.viz import contact_sheet, draw_mask, heat_map

PHOTOS = Path(__file__).parent / "photos"
# Labels of each image, and the first row of the 3:2 crop that is shown.
SHOWN = {"astronaut.jpg": (["person"], 0), "camera.jpg": (["person"], 50), "chelsea.jpg": (["cat"], 0)}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="crt_vit_s16")
parser.add_argument("--preset", default="whole", choices=[*PRESETS, "none"], help="how images are seen")
parser.add_argument("--refine", default="pamr", help="a refiner, or none")
parser.add_argument(
    "--height", type=int, default=218, help="of each row, in pixels; 218 makes a picture 1000 pixels wide"
)
parser.add_argument("--out", type=Path, default=Path("readme.png"))
args = parser.parse_args()

model = create_model(args.model, pretrained=True)
refiner = None if args.refine == "none" else create_refiner(args.refine, pretrained=True, model=model)
extractor = CAMExtractor(model, **PRESETS.get(args.preset, {}))


def draw_row(name: str, labels: list[str], top: int) -> list[Image.Image]:
    """Image, one heat map for each class, and the refined mask with the names of its classes."""
    photo = Image.open(PHOTOS / name).convert("RGB")
    photo = photo.crop((0, top, photo.width, min(photo.height, top + round(photo.width / 1.5))))
    [result] = extractor(photo, labels)
    mask = result.refined(refiner).mask()
    maps = [heat_map(result.pixels, cam) for cam in result.cam]
    return [photo, *maps, draw_mask(result.pixels, mask, result.class_names)]


rows = [draw_row(name, labels, top) for name, (labels, top) in SHOWN.items()]
contact_sheet(rows, height=args.height, gap=6).save(args.out, optimize=True)
print(f"image, heat map and mask: {args.out}")
