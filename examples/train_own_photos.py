"""From labels to masks on photos of your own: train, make pseudo masks, train on these, make the masks.

python examples/train_own_photos.py --images photos --labels labels.csv --out run

labels.csv has the columns file,labels: `a.jpg,ripe`, `b.jpg,ripe unripe`.  Without arguments it takes the two photos
beside this file, which shows the steps and teaches the model nothing.  Started again, it goes on where it was stopped.
The same with the `crt` command, and what to change for your photos: docs/training.md.
"""

import argparse
from pathlib import Path

from crt import CAMExtractor, create_model, create_refiner
from crt.cam import PRESETS
from crt.data import ImageDataset
from crt.pseudo import make_pseudo_masks
from crt.train import build_branches, make_recipe, train_cam

PHOTOS = Path(__file__).parent / "photos"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--images", type=Path, default=PHOTOS)
parser.add_argument("--labels", type=Path, default=PHOTOS / "labels.csv")
parser.add_argument("--out", type=Path, default=Path("run"))
parser.add_argument("--epochs", type=int, default=10, help="of each training: 1000 steps and more are a good start")
args = parser.parse_args()

photos = ImageDataset.from_csv(args.images, args.labels)
print(f"{len(photos)} photos of {', '.join(photos.class_names)}")
length = [f"epochs={args.epochs}", f"batch_size={min(16, len(photos))}"]


def masks(model, folder, threshold):
    """Pseudo masks of all photos: maps at four scales, refined along the photos' edges, cut at the threshold."""
    extractor = CAMExtractor(model, **PRESETS["fast"])
    report = make_pseudo_masks(extractor, create_refiner("pamr"), photos, args.out / folder, threshold=threshold)
    print(f"{report.written} masks in {args.out / folder}, {len(report.failed)} photos could not be read")


# The bundled weights with a new head for your classes.  The CNN branch stays away here, since its ImageNet weights
# would have to be fetched; with a network, leave "cnn=null" out and train both branches, as the paper does.
start = args.out / "start"
create_model("crt_vit_t16", pretrained=True, class_names=photos.class_names).save_pretrained(start)
recipe = make_recipe("t16-voc9k", [*length, "cnn=null"])
branches = build_branches(recipe, photos.class_names, pretrained=True, start=start)
model = train_cam(branches, photos, args.out / "labels", recipe)

# Scores between the two thresholds are marked as unsure (255), and train nothing.
masks(model, "pseudo", threshold=(0.30, 0.44))

recipe = make_recipe("t16-voc9k-masks", length)
branches = build_branches(recipe, photos.class_names, start=args.out / "labels" / "model")
model = train_cam(branches, photos.with_masks(args.out / "pseudo"), args.out / "masked", recipe)

masks(model, "masks", threshold=0.34)
print(f'the model: crt.create_model("local-dir:{args.out / "masked" / "model"}", pretrained=True)')
