"""Load a model, give it classes of your own, save it, load it again, share it.

python examples/share.py --out my-model
python examples/share.py --out my-model --push your-name/my-model     (after `hf auth login`)
"""

import argparse
from pathlib import Path

import torch
from huggingface_hub import EvalResult
from torch.nn import functional as F

import crt

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("my-model"))
parser.add_argument("--push", metavar="NAME/MODEL", help="repository on the Hub to upload to")
args = parser.parse_args()

# The trained backbone stays, the head is new: it says so, and wants training.
model = crt.create_model("crt_vit_t16", pretrained=True, class_names=["ripe", "unripe"])

# One training step, as in any PyTorch loop: `forward` returns logits.
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
images, targets = torch.randn(2, 3, 224, 224), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
F.multilabel_soft_margin_loss(model.train()(images), targets).backward()
optimizer.step()

# The card is written beside the weights; its results are what the Hub shows.
measured = EvalResult(
    task_type="image-segmentation",
    dataset_type="your-name/fruit",  # identifier on the Hub
    dataset_name="Fruit",
    dataset_split="val",
    metric_type="mean_iou",
    metric_name="mIoU without labels",
    metric_value=61.5,  # made up here; `crt eval segment` measures it
)
card = {"results": [measured], "datasets": ["your-name/fruit"], "notes": "One step, as an example."}
model.save_pretrained(args.out, card=card)
again = crt.create_model(f"local-dir:{args.out}", pretrained=True)
print(f"{args.out}: {sorted(file.name for file in args.out.iterdir())}, classes {again.class_names}")

if args.push:
    again.push_to_hub(args.push, card=card)
    print(f'anyone: crt.create_model("hf-hub:{args.push}", pretrained=True)')
