"""Ways to look at a photo that have names; docs/performance.md has what each costs and gives."""

from typing import Any

__all__ = ["PRESETS"]

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), "flip": True},
    "balanced": {"scales": (0.5, 1.0, 1.5), "flip": True},
    "fast": {"scales": (0.5, 1.0), "flip": True, "stride": 224},
}
"""Arguments of ``CAMExtractor`` and ``CRT.cam`` by name: the paper's inference, the commands' default, and the knee of
seed mIoU over photos a second.  Where no stride is given it is the model's own."""
