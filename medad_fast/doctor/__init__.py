"""Checks of an installation and of a dataset, each a small function in a list."""

from medad_fast.doctor.data import check_data
from medad_fast.doctor.finding import Finding
from medad_fast.doctor.installation import check_installation

__all__ = ["Finding", "check_data", "check_installation"]
