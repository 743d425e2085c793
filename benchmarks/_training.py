"""How the benchmarks train: in bfloat16, compiled, with a progress bar that starts where a stopped run goes on."""

from pathlib import Path

from rich.progress import track

from crt.data import ImageDataset
from crt.models import CRT, DualBranch
from crt.train import CAMRecipe, train_cam


def trained(model: DualBranch, photos: ImageDataset, out: Path, recipe: CAMRecipe) -> CRT:
    """The transformer after the recipe; the run is in ``out``."""
    return train_cam(
        model,
        photos,
        out,
        recipe,
        precision="bf16",
        compile=True,
        progress=lambda steps, first, total, status: track(steps, "steps", completed=first, total=total),
    )
