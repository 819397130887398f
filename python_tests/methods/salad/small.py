"""SALAD small enough to train in a test, with any of its losses."""

from __future__ import annotations

from medad_fast.methods.salad import LOSSES
from python_tests.methods.small import small

ALL_ON = {f"{name}_weight": 1.0 for name in LOSSES}


def build(**overrides):
    return small("salad", **overrides)


def only(*names, **weights):
    """Weights of 0 for every loss but some."""
    return {**{f"{name}_weight": float(name in names) for name in LOSSES}, **weights}
