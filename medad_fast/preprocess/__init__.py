"""Images to tensors, and maps back to images."""

from medad_fast.preprocess.config import PreprocessConfig
from medad_fast.preprocess.pipeline import (
    Pipeline,
    Slices,
    SliceSet,
    load_slices,
    resolve_modality,
)

__all__ = ["Pipeline", "PreprocessConfig", "SliceSet", "Slices", "load_slices", "resolve_modality"]
