"""The autoencoder small enough to train in a test."""

SMALL = {"width": 4, "units": 1, "batch_size": 4}
