"""Results to look at: tables, colours and one self-contained page."""

from medad_fast.artifacts.overlay import overlay
from medad_fast.report.page import write_demo_report, write_report
from medad_fast.report.table import (
    comparison_table,
    decision_lines,
    difference_table,
    metrics_table,
    published_rows,
)

__all__ = [
    "comparison_table",
    "decision_lines",
    "difference_table",
    "metrics_table",
    "overlay",
    "published_rows",
    "write_demo_report",
    "write_report",
]
