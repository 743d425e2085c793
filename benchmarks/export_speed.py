"""Exported models: seconds a photo, agreement of masks, and mIoU, in PyTorch, ONNX Runtime, and ONNX Runtime with int8.

python benchmarks/export_speed.py --images examples/photos --json docs/records/export_speed.json
python benchmarks/export_speed.py --voc VOC2012 --list train_allclass --limit 100 --model crt_vit_s16 --side 336 \\
    --json docs/records/export_miou.json

Dynamic quantization: int8 weights of the matrix products, activations quantized as they come.  The second command
measures masks of the graph "segment", without labels, and of the graph "cam", with the photos' own labels, cut at the
model's own threshold; ``--limit`` takes photos at equal distances through the list.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from _runner import Json, save, show
from torch import Tensor
from torch.nn import functional as F

import crt
from crt.cam.functional import against_background, mask_from_cam, normalize_cam
from crt.data import ImageDataset
from crt.images import normalize, open_image, resize
from crt.masks import load_mask
from crt.metrics.mask_iou import confusion_matrix, mean_iou
from crt.models.export import GRAPHS, SegmentGraph

Run = Callable[[Tensor], Tensor]
KINDS = ("float32", "int8")


def read(file: Path, model: Any, side: int) -> Tensor:
    """(1, 3, side, side) normalized."""
    return resize(normalize(open_image(file), model.mean, model.std), (side, side), antialias=True)[None]


@contextmanager
def exported(model: Any, graph: str, side: int) -> Iterator[dict[str, tuple[Run, int]]]:
    """The graph in ONNX Runtime, float32 and int8, each with the size of its file in bytes."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{kind}.onnx" for kind in KINDS]
        with torch.inference_mode(False):
            model.export(files[0], graph=graph, size=(side, side))
        quantize_dynamic(*files, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        sessions = [onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"]) for file in files]
        runs = [lambda x, s=session: torch.from_numpy(s.run(None, {"image": x.numpy()})[0]) for session in sessions]
        yield {kind: (run, file.stat().st_size) for kind, run, file in zip(KINDS, runs, files, strict=True)}


def measure_speed(model: Any, images: Path, side: int, repeats: int) -> dict[str, Any]:
    """The median of the seconds a photo, and the share of pixels of the same class as PyTorch's."""

    def measure(run: Run) -> tuple[float, list[Tensor]]:
        masks, seconds = [run(x).argmax(dim=1) for x in photos], []
        for x in photos * repeats:
            start = time.perf_counter()
            run(x)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds), masks

    photos = [read(file, model, side) for file in sorted(images.glob("*.jpg"))]
    seconds, wanted = measure(SegmentGraph(model).eval())
    rows: dict[str, Any] = {"pytorch": {"seconds": seconds}}
    with exported(model, "segment", side) as runs:
        for name, (run, size) in runs.items():
            seconds, masks = measure(run)
            same = [float((a == b).float().mean()) for a, b in zip(masks, wanted, strict=True)]
            rows[f"onnxruntime {name}"] = {"seconds": seconds, "same_pixels": statistics.mean(same), "bytes": size}
    return {"photos": len(photos), "repeats": repeats, "rows": rows}


def measure_masks(model: Any, voc: Path, split: str, side: int, limit: int) -> dict[str, Any]:
    """The mIoU of both graphs over photos of a list, each seen as a square and its maps brought back to its size."""
    data = ImageDataset.from_voc(voc, split, masks=True)
    samples = data.samples[:: max(1, len(data) // limit)][:limit]
    counts = {f"{graph} {kind}": torch.zeros(21, 21, dtype=torch.int64) for graph in GRAPHS for kind in KINDS}
    with exported(model, "segment", side) as segment, exported(model, "cam", side) as cam:
        for sample in show(samples, len(samples)):
            image, truth = read(sample.image, model, side), torch.from_numpy(load_mask(sample.mask))
            for kind in KINDS:
                scores = _fit(segment[kind][0](image), truth)
                maps = _fit(cam[kind][0](image), truth)
                maps = against_background(maps[0]) if model.activation == "softmax" else normalize_cam(maps[0])
                known = mask_from_cam(maps[sample.labels], sample.labels, model.seed_threshold)
                for graph, mask in zip(GRAPHS, (scores[0].argmax(dim=0), known), strict=True):
                    counts[f"{graph} {kind}"] += confusion_matrix(mask, truth, 20)
    rows = {name: round(float(mean_iou(count)), 6) for name, count in counts.items()}
    return {"root": voc.name, "list": split, "photos": len(samples), "threshold": model.seed_threshold, "miou": rows}


def _fit(maps: Tensor, truth: Tensor) -> Tensor:
    return F.interpolate(maps, truth.shape[-2:], mode="bilinear", align_corners=False)


def main(
    images: Annotated[Path | None, typer.Option(help="Folder of JPEGs, for speed.")] = None,
    voc: Annotated[Path | None, typer.Option(help="Folder in the VOC layout, for mIoU.")] = None,
    split: Annotated[str, typer.Option("--list", help="List of the VOC folder.")] = "train_allclass",
    limit: Annotated[int, typer.Option(help="Photos of the list, at most.")] = 100,
    model: Annotated[str, typer.Option(help="Name of the model.")] = "crt_vit_t16",
    side: Annotated[int, typer.Option(help="Side of the squares that photos are resized to, whole patches.")] = 224,
    repeats: Annotated[int, typer.Option(help="Times that each photo is run, for speed.")] = 3,
    json: Json = None,
) -> None:
    if (images is None) == (voc is None):
        raise typer.BadParameter("give --images, for speed, or --voc, for mIoU.")
    network: Any = crt.create_model(model, pretrained=True)
    with torch.inference_mode():
        if voc is not None:
            found = measure_masks(network, voc, split, side, limit)
        else:
            found = measure_speed(network, images, side, repeats)
    for name, row in (found.get("rows") or found["miou"]).items():
        print(name, row)
    save(json, "exported models", model=model, side=side, threads=torch.get_num_threads(), **found)


if __name__ == "__main__":
    typer.run(main)
