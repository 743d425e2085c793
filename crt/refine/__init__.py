"""Maps in, better maps out: modules that share forward(image, cam) -> cam."""

from crt.refine.affinity import displacements, path_affinity
from crt.refine.crf import CRFSettings, DenseCRF, crf_labels
from crt.refine.random_walk import RandomWalk, random_walk

__all__ = [
    "CRFSettings",
    "DenseCRF",
    "RandomWalk",
    "crf_labels",
    "displacements",
    "path_affinity",
    "random_walk",
]
