"""What predicting writes of each image besides its scores: maps, overlays and DICOM objects."""

from medad_fast.io.map_origin import MapOrigin
from medad_fast.outputs.results import Results

__all__ = ["MapOrigin", "Results"]
