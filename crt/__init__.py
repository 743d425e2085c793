"""CRT: image-level labels in, pixel masks out.

>>> import crt
>>> crt.list_models(pretrained=True)
['crt_vit_s16.voc9k', 'crt_vit_t16.cub50', 'crt_vit_t16.voc9k']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crt.cam import CAMExtractor, CAMResult
    from crt.models import CRT, create_model, get_pretrained_cfg, is_model, list_models
    from crt.pipeline.fit import fit
    from crt.refine import create_refiner, list_refiners

__version__ = "0.1.0"
__all__ = [
    "CRT",
    "CAMExtractor",
    "CAMResult",
    "create_model",
    "create_refiner",
    "fit",
    "get_pretrained_cfg",
    "is_model",
    "list_models",
    "list_refiners",
]

# Names are loaded when first used, so that `import crt` does not wait for timm and the Hub's client.
_HOME = {
    "CAMExtractor": "crt.cam",
    "CAMResult": "crt.cam",
    "create_refiner": "crt.refine",
    "fit": "crt.pipeline",
    "list_refiners": "crt.refine",
}


def __getattr__(name: str) -> Any:
    if name in ("cam", "data", "losses", "metrics", "models", "pipeline", "pseudo", "refine", "segmenting", "viz"):
        return import_module(f"crt.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'crt' has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "crt.models")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
