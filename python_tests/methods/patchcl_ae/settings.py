"""PatchCL-AE small enough to train in a test."""

SMALL = {"width": 4, "units": 1, "projection_dim": 8, "patches": 32, "batch_size": 4}
