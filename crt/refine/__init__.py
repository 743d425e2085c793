"""Maps in, better maps out: modules that share ``refiner(image, cam) -> cam``."""

from crt.cam.paths import displacements, path_affinity
from crt.refine.attention import AttentionAffinity
from crt.refine.boundary import BoundaryLoss, PairKinds, affinity_loss, boundary_loss, displacement_loss, pair_kinds
from crt.refine.crf import CRFSettings, DenseCRF, crf_labels
from crt.refine.pamr import PAMR
from crt.refine.random_walk import RandomWalk, random_walk
from crt.refine.registry import Refiners, create_refiner, list_refiners

__all__ = [
    "PAMR",
    "AttentionAffinity",
    "BoundaryLoss",
    "CRFSettings",
    "DenseCRF",
    "PairKinds",
    "RandomWalk",
    "Refiners",
    "affinity_loss",
    "boundary_loss",
    "create_refiner",
    "crf_labels",
    "displacement_loss",
    "displacements",
    "list_refiners",
    "pair_kinds",
    "path_affinity",
    "random_walk",
]
