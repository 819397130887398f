"""DICOM files and series to images."""
