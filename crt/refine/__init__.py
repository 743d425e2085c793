"""Maps in, better maps out: modules that share ``refiner(image, cam) -> cam``."""

from crt.refine.pamr import PAMR
from crt.refine.registry import Refiners, create_refiner, list_refiners

__all__ = ["PAMR", "Refiners", "create_refiner", "list_refiners"]
