"""Ways to look at a photo that have names; docs/performance.md has what each costs and gives."""

from typing import Any

__all__ = ["PRESETS"]

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), "flip": True, "tile": "own"},
    "fast": {"scales": (0.44, 0.88, 1.32, 1.76), "flip": False, "tile": "own", "stride": 224},
    "whole": {"scales": (1.0,), "flip": False, "tile": "whole"},
}
"""Arguments of ``CAMExtractor`` and ``CRT.cam`` by name.

``paper``: the paper's inference.

``fast``: the knee of T16's seed mIoU over photos a second, which the commands use for models that see tiles.  Its
scales bring a photo of 500 x 375 to 1, 2, 3 and 4 tiles of 224 in width, with next to no overlap: many scales are worth
more than overlap or mirror.

``whole``: the photo at once, with position embeddings interpolated to its own grid, for models trained on photos of
many sizes.

Where no stride is given it is the model's own.
"""
