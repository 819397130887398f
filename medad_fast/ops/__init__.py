"""Fused ops, usable alone: each has a plain torch reference beside it, ``<op>_reference``."""

from medad_fast.ops._native import backend
from medad_fast.ops.patch_discrepancy import patch_discrepancy

__all__ = ["backend", "patch_discrepancy"]
