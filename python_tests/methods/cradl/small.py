"""CRADL small enough to train in a test."""

from __future__ import annotations

import torch

from python_tests.methods.small import discs, small

FLOW = {"density": "flow", "flow_width": 16, "flow_blocks": 2, "flow_epochs": 6}


def build(**overrides):
    return small("cradl", **{"latent_dim": 6, **overrides})


def fitted(**overrides):
    """A method whose encoder is as drawn, but with norms and densities of images."""
    images = discs(24, seed=1)
    method = build(**overrides)
    with torch.no_grad():
        method.encoder.train()(images)
    method.eval()
    if method.flow is not None:
        *_, stage = method.stages()
        stage.prepare(iter(images.split(7)))
    method.finish(list(images.split(7)), [discs(8, seed=2)])
    return method
