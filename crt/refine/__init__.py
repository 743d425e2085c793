"""Maps in, better maps out: modules that share ``refiner(image, cam) -> cam``."""

from crt.cam.paths import displacements, path_affinity
from crt.cam.spread import spread
from crt.refine.affinity import FeatureAffinity
from crt.refine.attention import AttentionAffinity
from crt.refine.crf import CRFSettings, DenseCRF, crf_labels
from crt.refine.pamr import PAMR
from crt.refine.random_walk import RandomWalk, random_walk
from crt.refine.registry import Refiners, create_refiner, list_refiners

__all__ = [
    "PAMR",
    "AttentionAffinity",
    "CRFSettings",
    "DenseCRF",
    "FeatureAffinity",
    "RandomWalk",
    "Refiners",
    "create_refiner",
    "crf_labels",
    "displacements",
    "list_refiners",
    "path_affinity",
    "random_walk",
    "spread",
]
