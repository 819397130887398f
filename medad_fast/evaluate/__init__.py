"""Honest figures: exact ranking metrics with patient-clustered intervals."""

from medad_fast.evaluate.comparison import compare
from medad_fast.evaluate.summary import evaluate

__all__ = ["compare", "evaluate"]
