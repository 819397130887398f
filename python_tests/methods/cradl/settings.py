"""CRADL small enough to train in a test."""

SMALL = {"width": 4, "latent_dim": 64, "batch_size": 8}
SLOW_LEARNER = True
