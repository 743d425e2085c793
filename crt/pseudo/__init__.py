"""Pseudo masks of any number of labelled photos; an interrupted job resumes, and several processes share one."""

from crt.pseudo.cut import cut_mask
from crt.pseudo.job import PseudoReport, make_pseudo_masks
from crt.pseudo.peers import Peers

__all__ = ["Peers", "PseudoReport", "cut_mask", "make_pseudo_masks"]
