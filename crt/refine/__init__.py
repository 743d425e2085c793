"""Maps in, better maps out: modules that share ``refiner(image, cam) -> cam``."""

from crt.refine.crf import DenseCRF
from crt.refine.pamr import PAMR
from crt.refine.random_walk import RandomWalk
from crt.refine.registry import create_refiner, list_refiners

__all__ = ["PAMR", "DenseCRF", "RandomWalk", "create_refiner", "list_refiners"]
