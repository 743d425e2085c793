"""Side by side with grad-cam and torchcam: seed mIoU and seconds a photo, same weights, same photos, one 224 view.

pip install 'crt-wsss[bench]'
python benchmarks/peers.py --voc VOC2012 --list train_allclass

Every way sees each photo squeezed into one tile, makes the maps of the photo's own classes from the same ViT, and has
them resized to the photo.  Each way's background threshold is the one that is best for it on the list.  The peers are
called as their documentation says for ViTs, with a ``reshape_transform``, on the last normalization (which runs once a
forward pass, whatever the number of passes).  They take turns photo by photo; seconds are those from the decoded view
to maps at the photo's size.
"""

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import torch
import typer
from _runner import RECORDS, VOC, Again, Curves, Lists, at_best, is_done, levels, save, show
from PIL import Image
from torch import Tensor

import crt
from crt.cam import CAMExtractor
from crt.cam.functional import resize

SIDE = 224  # pixels of the view: one tile
Way = Callable[[Image.Image, list[int], tuple[int, int]], Tensor]  # view, classes, (H, W) -> (k, H, W) in [0, 1]


def to_input(model: crt.CRT, view: Image.Image) -> Tensor:
    """A view as the network takes it: (1, 3, H, W), normalized."""
    pixels = torch.frombuffer(bytearray(view.tobytes()), dtype=torch.uint8).view(view.height, view.width, 3)
    mean, std = (torch.tensor(model.pretrained_cfg[name]) for name in ("mean", "std"))
    return ((pixels / 255 - mean) / std).permute(2, 0, 1)[None]


def our_way(model: crt.CRT) -> Way:
    extractor = CAMExtractor(model, flip=False)

    def maps(view: Image.Image, labels: list[int], size: tuple[int, int]) -> Tensor:
        return extractor(view, [labels], size=size)[0].maps

    return maps


def grad_cam_way(model: crt.CRT, method: str) -> Way:
    """A method of the package grad-cam: one forward and backward pass a class."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    make = getattr(pytorch_grad_cam, method)
    cam = make(model=model, target_layers=[model.backbone.norm], reshape_transform=to_grid(model))

    def maps(view: Image.Image, labels: list[int], size: tuple[int, int]) -> Tensor:
        x = to_input(model, view)
        found = [cam(input_tensor=x, targets=[ClassifierOutputTarget(label)])[0] for label in labels]
        return resize(torch.stack([torch.as_tensor(one) for one in found]), size)

    return maps


def torchcam_way(model: crt.CRT, method: str) -> Way:
    """A method of torchcam: one forward pass, a backward pass a class."""
    import torchcam.methods

    make = getattr(torchcam.methods, method)
    cam = make(model, target_layer="backbone.norm", reshape_transform=to_grid(model))

    def maps(view: Image.Image, labels: list[int], size: tuple[int, int]) -> Tensor:
        scores = model(to_input(model, view).requires_grad_())
        found = [cam(label, scores, retain_graph=True)[0].squeeze(0) for label in labels]
        return resize(torch.stack(found).detach(), size)

    return maps


def to_grid(model: crt.CRT) -> Callable[[Tensor], Tensor]:
    """Tokens (B, prefix + N, D) -> (B, D, g, g), as both packages want it for a ViT."""
    side = model.tile // model.patch
    return lambda tokens: tokens[:, model.prefix :].transpose(1, 2).unflatten(2, (side, side))


def ways_of(name: str) -> dict[str, Way]:
    """Each way with a model of its own: the packages leave hooks."""

    def fresh() -> crt.CRT:
        return crt.create_model(name, pretrained=True).eval()

    return {
        "crt": our_way(fresh()),
        "grad-cam GradCAM": grad_cam_way(fresh(), "GradCAM"),
        "grad-cam LayerCAM": grad_cam_way(fresh(), "LayerCAM"),
        "torchcam GradCAM": torchcam_way(fresh(), "GradCAM"),
        "torchcam LayerCAM": torchcam_way(fresh(), "LayerCAM"),
    }


def main(
    voc: VOC,
    split: Annotated[str, typer.Option("--list", help="Its list.")] = "train_allclass",
    photos: Annotated[int | None, typer.Option(help="The first so many photos only; no record is written.")] = None,
    model: str = "crt_vit_t16.voc9k",
    again: Again = False,
) -> None:
    record = RECORDS / f"peers_{split}.json"
    if photos is None and is_done(record, again=again):
        return
    lists, ways = Lists(voc, [split]), ways_of(model)
    lists.photos = lists.photos[:photos]
    curves = {name: Curves(lists, levels(0.02, 49)) for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for place, photo in enumerate(show(lists.photos, len(lists.photos))):
        with Image.open(photo.image) as image:
            size, view = (image.height, image.width), image.convert("RGB").resize((SIDE, SIDE))
        for name in list(ways) if place % 2 else list(ways)[::-1]:
            begin = time.perf_counter()
            maps = ways[name](view, photo.labels, size)
            seconds[name].append(time.perf_counter() - begin)
            curves[name].add(photo, maps.clamp(0, 1), photo.labels)
    found = {name: at_best(curve.of[split]) for name, curve in curves.items()}
    for name, row in found.items():
        row["seconds_median"] = statistics.median(seconds[name])
        print(f"{name}: {100 * row['miou']:.2f} at {row['threshold']:.2f}, {row['seconds_median']:.3f} s a photo")
    if photos is None:
        save(
            record,
            "seed mIoU side by side",
            model=model,
            list=split,
            photos=len(lists.photos),
            view=[SIDE, SIDE],
            resolution="masks'",
            threshold_rule="best on this list, for each way",
            packages={name: version(name) for name in ("grad-cam", "torchcam")},
            ways=found,
        )


if __name__ == "__main__":
    typer.run(main)
