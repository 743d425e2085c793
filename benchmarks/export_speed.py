"""Exported models: seconds a photo and agreement of masks, in PyTorch, ONNX Runtime, and ONNX Runtime with int8.

python benchmarks/export_speed.py --images examples/photos --json docs/records/export_speed.json

Dynamic quantization: int8 weights of the matrix products, activations quantized as they come.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from _runner import Json, save
from torch import Tensor

import crt
from crt.images import normalize, open_image, resize
from crt.models.export import SegmentGraph


def photos_of(folder: Path, model: Any, side: int) -> list[Tensor]:
    """(1, 3, side, side) normalized, of each JPEG of a folder."""
    images = [open_image(file) for file in sorted(folder.glob("*.jpg"))]
    return [resize(normalize(x, model.mean, model.std), (side, side), antialias=True)[None] for x in images]


def measure(run: Callable[[Tensor], Tensor], photos: list[Tensor], repeats: int) -> tuple[float, list[Tensor]]:
    """The median of the seconds a photo, and the masks."""
    masks, seconds = [run(x).argmax(dim=1) for x in photos], []
    for _ in range(repeats):
        for x in photos:
            start = time.perf_counter()
            run(x)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), masks


def main(
    images: Annotated[Path, typer.Option(help="Folder of JPEGs.")],
    model: Annotated[str, typer.Option(help="Name of the model.")] = "crt_vit_t16",
    side: Annotated[int, typer.Option(help="Side of the squares that photos are resized to, whole patches.")] = 224,
    repeats: Annotated[int, typer.Option(help="Times that each photo is run.")] = 3,
    json: Json = None,
) -> None:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    network: Any = crt.create_model(model, pretrained=True)
    photos, graph = photos_of(images, network, side), SegmentGraph(network).eval()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        plain, small = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        with torch.inference_mode(False):
            network.export(plain, size=(side, side))
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
        seconds, wanted = measure(graph, photos, repeats)
        rows["pytorch"] = {"seconds": seconds}
        for name, file in (("onnxruntime", plain), ("onnxruntime int8", small)):
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            seconds, masks = measure(
                lambda x, session=session: torch.from_numpy(session.run(None, {"image": x.numpy()})[0]), photos, repeats
            )
            same = [float((a == b).float().mean()) for a, b in zip(masks, wanted, strict=True)]
            rows[name] = {"seconds": seconds, "same_pixels": statistics.mean(same), "bytes": file.stat().st_size}
    for name, row in rows.items():
        print(name, row)
    settings = {"model": model, "photos": len(photos), "side": side, "repeats": repeats}
    save(json, "exported models", **settings, threads=torch.get_num_threads(), rows=rows)


if __name__ == "__main__":
    typer.run(main)
