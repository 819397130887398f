"""SALAD small enough to train in a test."""

SMALL = {"width": 4, "latent_dim": 16, "warmup_epochs": 2, "batch_size": 4}
