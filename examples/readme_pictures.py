"""The picture of the README: photo, one heat map for each class, and mask, of the photos that show several classes.

python examples/readme_pictures.py --out docs/readme.png
"""

import argparse
from pathlib import Path

from PIL import Image

from crt import CAMExtractor, create_model, create_refiner
from crt.cam import PRESETS

PHOTOS = Path(__file__).parent / "photos"
SHOWN = {"pasture.jpg": ["dog", "horse", "person"], "porch.jpg": ["bicycle", "car", "dog"]}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="crt_vit_s16")
parser.add_argument("--preset", default="whole", choices=[*PRESETS, "none"], help="how images are seen")
parser.add_argument("--refine", default="pamr", help="a refiner, or none")
parser.add_argument("--threshold", type=float, default=0.3, help="score of the background, 0 to 1")
parser.add_argument("--width", type=int, default=1000, help="of the picture, in pixels")
parser.add_argument("--out", type=Path, default=Path("readme.png"))
args = parser.parse_args()

model = create_model(args.model, pretrained=True)
refiner = None if args.refine == "none" else create_refiner(args.refine, pretrained=True, model=model)
extractor = CAMExtractor(model, **PRESETS.get(args.preset, {}))

pairs = [(PHOTOS / name, labels) for name, labels in SHOWN.items()]
rows = [result.refined(refiner).panel(args.threshold, width=args.width) for result in extractor.stream(pairs)]
picture = Image.new("RGB", (args.width, sum(row.height + 10 for row in rows) - 10), "white")
top = 0
for row in rows:
    picture.paste(row, (0, top))
    top += row.height + 10
picture.save(args.out, optimize=True)
print(f"photo, heat maps and mask: {args.out}")
