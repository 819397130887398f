"""Files to images, and folders to datasets."""

from medad_fast.data.dataset import (
    Case,
    Dataset,
    Label,
    Split,
    hold_out_tuning,
    hold_out_validation,
    require_trainable,
)
from medad_fast.data.image import Geometry, Image, Provenance, image_of_array
from medad_fast.data.layouts import load_dataset
from medad_fast.data.reading import read, read_mask

__all__ = [
    "Case",
    "Dataset",
    "Geometry",
    "Image",
    "Label",
    "Provenance",
    "Split",
    "hold_out_tuning",
    "hold_out_validation",
    "image_of_array",
    "load_dataset",
    "read",
    "read_mask",
    "require_trainable",
]
