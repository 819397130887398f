"""Honest figures: exact ranking metrics with patient-clustered intervals."""

from medad_fast.evaluation.comparison import compare
from medad_fast.evaluation.summary import evaluate

__all__ = ["compare", "evaluate"]
