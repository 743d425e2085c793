"""Pseudo masks of any number of labeled photos; an interrupted job resumes, and several processes share one."""

from crt.pseudo.masks import make_pseudo_masks

__all__ = ["make_pseudo_masks"]
