"""Trains CRT's two branches on a VOC-style folder from image-level labels: the recipe of the bundled weights.

    python examples/train_voc.py --root VOC2012 --out run --vit-weights vit_tiny.safetensors \
        --cnn-weights lite0.safetensors

The root holds JPEGImages/, labels.csv (id,labels,difficult) and ImageSets/Segmentation/<list>.txt.  A run that was
stopped goes on from its last checkpoint when it is started again with the same --out.  Two epochs take about half an
hour on two CPU cores.
"""

import argparse
import csv
import json
import logging
import os
import time
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from crt.data import VOC_CLASSES
from crt.models.cnn import CNNBranch
from crt.models.dual import DualBranch
from crt.models.vit import CRT

log = logging.getLogger("train_voc")


class LabelledPhotos(Dataset):
    """Photos with multi-hot labels; difficult objects count as present.  Every (epoch, index) has its own seed."""

    def __init__(self, root: Path, split: str, seed: int, mean: list[float], std: list[float]) -> None:
        ids = (root / "ImageSets/Segmentation" / f"{split}.txt").read_text().split()
        with open(root / "labels.csv", newline="") as file:
            labels = {row["id"]: (row["labels"] + " " + row["difficult"]).split() for row in csv.DictReader(file)}
        self.items = [(root / "JPEGImages" / f"{name}.jpg", labels[name]) for name in ids]
        self.seed = seed
        self.transform = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomResizedCrop(224, scale=(0.3, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, index = key
        path, names = self.items[index]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.seed * 1000 + epoch) * 1_000_003 + index)
            image = self.transform(Image.open(path).convert("RGB"))
        target = torch.zeros(len(VOC_CLASSES))
        target[[VOC_CLASSES.index(name) for name in names]] = 1
        return image, target


def batches(size: int, batch: int, epochs: int, seed: int) -> list[list[tuple[int, int]]]:
    """All batches of the run as (epoch, index) pairs: the data order is a function of the seed alone."""
    plan = []
    for epoch in range(epochs):
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        plan += [[(epoch, i) for i in order[k : k + batch]] for k in range(0, size - batch + 1, batch)]
    return plan


def save(path: Path, model: DualBranch, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Writes model, optimiser and step as one safetensors file, all of it or nothing."""
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.contiguous() for name, value in state.items()}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"step": str(step)})
    os.replace(temporary, path)


def resume(path: Path, model: DualBranch, optimizer: torch.optim.Optimizer) -> int:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model.load_state_dict({n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--list", default="cls_train")
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--cnn", default="tf_efficientnet_lite0")
    parser.add_argument("--vit-weights", type=Path, required=True)
    parser.add_argument("--cnn-weights", type=Path, required=True)
    parser.add_argument("--num-passes", type=int, default=0)
    parser.add_argument("--coupling", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="compile both branches with torch.compile")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.StreamHandler(), logging.FileHandler(args.out / "log.txt")],
    )
    torch.manual_seed(args.seed)

    vit = CRT(args.backbone, num_classes=len(VOC_CLASSES), num_passes=args.num_passes)
    vit.backbone.load_state_dict({n: v for n, v in load_file(args.vit_weights).items() if not n.startswith("head.")})
    cnn = CNNBranch(args.cnn, num_classes=len(VOC_CLASSES))
    wanted = cnn.backbone.state_dict().keys()
    cnn.backbone.load_state_dict({n: v for n, v in load_file(args.cnn_weights).items() if n in wanted})
    model = DualBranch(vit, cnn)
    model.train()

    heads = [*vit.head.parameters(), *cnn.head.parameters()]
    rest = [p for p in model.parameters() if p.requires_grad and not any(p is h for h in heads)]
    optimizer = torch.optim.AdamW(
        [{"params": rest, "lr": args.lr}, {"params": heads, "lr": 10 * args.lr}], weight_decay=0.01
    )
    cfg = vit.backbone.default_cfg
    data = LabelledPhotos(args.root, args.list, args.seed, cfg["mean"], cfg["std"])
    plan = batches(len(data), args.batch, args.epochs, args.seed)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 100, 1.0) * (1 - step / len(plan)) ** 0.9
    )
    checkpoint, first = args.out / "checkpoint.safetensors", 0
    if checkpoint.exists():
        first = resume(checkpoint, model, optimizer)
        schedule.last_epoch = first - 1
        schedule.step()
        log.info("resumed at step %d", first)
    if args.compile:
        vit.backbone.blocks.compile()
        cnn.backbone.compile()
    cnn.to(memory_format=torch.channels_last)

    (args.out / "args.json").write_text(json.dumps(vars(args), default=str, indent=2))
    loader = DataLoader(data, batch_sampler=plan[first:], num_workers=1, prefetch_factor=4)
    start, means = time.time(), torch.zeros(4)
    for step, (images, targets) in enumerate(loader, first):
        epoch = plan[step][0][0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = model.loss(images, targets, coupling=args.coupling if epoch else 0.0)
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        means += torch.stack([loss.detach() for loss in losses])
        if (step + 1) % 50 == 0:
            speed = (step + 1 - first) * args.batch / (time.time() - start)
            total, a, b, c = (means / 50).tolist()
            means.zero_()
            log.info(
                "step %d/%d epoch %d loss %.4f vit %.4f cnn %.4f coupling %.4f  %.1f photos/s",
                step + 1, len(plan), epoch, total, a, b, c, speed,
            )  # fmt: skip
        if (step + 1) % 200 == 0 or step + 1 == len(plan):
            save(checkpoint, model, optimizer, step + 1)
        if step + 1 == len(plan) or plan[step + 1][0][0] != epoch:
            weights = {n: v.to(torch.float16).contiguous() for n, v in vit.state_dict().items()}
            save_file(weights, args.out / f"vit.epoch{epoch + 1}.fp16.safetensors")
            log.info("epoch %d done", epoch + 1)


if __name__ == "__main__":
    main()
