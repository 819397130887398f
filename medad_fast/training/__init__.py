"""The training loop, and what a fit computes besides weights."""
