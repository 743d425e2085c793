"""A photo and what it shows -> class activation map and mask, on the weights that come with the package.

python examples/quickstart.py --out cat.png
"""

import argparse
from pathlib import Path

from PIL import Image

from crt import CAMExtractor, create_model
from crt.viz import contact_sheet, paint_mask

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photo", type=Path, nargs="?", default=Path(__file__).parent / "photos" / "chelsea.jpg")
parser.add_argument("--labels", nargs="+", default=["cat"])
parser.add_argument("--out", type=Path, default=Path("cat.png"))
args = parser.parse_args()

photo = Image.open(args.photo)
model = create_model("crt_vit_s16", pretrained=True)
[result] = CAMExtractor(model)(photo, args.labels)

for name, box in result.boxes().items():
    print(f"{name}: box {box}, {100 * (result.mask() > 0).float().mean():.0f} % of the photo")
contact_sheet([[photo, result.overlay(), paint_mask(result.mask())]], height=photo.height).save(args.out)
print(f"photo, CAM and mask: {args.out}")
