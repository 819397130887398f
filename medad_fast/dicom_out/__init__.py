"""Results as DICOM objects of the study that the image came from."""
