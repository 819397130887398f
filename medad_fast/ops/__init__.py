"""Fused ops, usable alone: each has a plain torch reference beside it, ``<op>_reference``."""

from medad_fast.ops._native import backend

__all__ = ["backend"]
