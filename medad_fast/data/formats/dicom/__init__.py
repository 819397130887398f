"""DICOM files and series to images."""

from __future__ import annotations

from medad_fast.data.formats import Format, Series
from medad_fast.data.formats.dicom.pixels import decoders
from medad_fast.data.formats.dicom.reader import read_dicom, read_dicom_series
from medad_fast.data.formats.dicom.series import group_series

__all__ = ["FORMAT"]

FORMAT = Format(
    name="dicom",
    kinds=("DICOM",),
    suffixes=(".dcm", ".dicom", ".ima"),
    sniff=lambda path, start: start[128:132] == b"DICM",
    read=read_dicom,
    series=Series(group_series, read_dicom_series),
    asked_first=True,  # the 128 bytes may be anything
    needs_suffix=False,  # scanners write names such as IM0001 or 1.2.840.113619.2.1
    index_names=("DICOMDIR",),
    stored_by_rows=True,
    packages=("pydicom",),
    loggers=("pydicom", "highdicom"),
    decoders=decoders,
    extra="dicom",
)
