"""The networks between images and one code, as SALAD has them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from medad_fast.nets.strided import (
    ImageDiscriminator,
    LatentDecoder,
    LatentDiscriminator,
    LatentEncoder,
    halved_sides,
)
from python_tests.methods.salad.small import build
from python_tests.methods.small import discs


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_networks_at_the_default_size_have_the_parameters_of_their_arithmetic():
    widths = [1, 32, 64, 128, 256, 512, 512]
    stages = sum(
        16 * a * b + b + 2 * b for a, b in itertools.pairwise(widths)
    )  # 4x4 kernels, biases, two numbers per normed channel
    encoder = LatentEncoder(256, 1, 32, 128)
    decoder = LatentDecoder(encoder)
    assert parameters(encoder) == stages + 128 * 512 * 16 + 128 == 8_033_312
    ups = sum(16 * a * b + a + 2 * a for a, b in itertools.pairwise(widths[1:]))
    expected = (128 * 512 * 16 + 512 + 2 * 512) + ups + (16 * 32 + 1)
    assert parameters(decoder) == expected == 8_033_185
    assert parameters(ImageDiscriminator(256, 1, 32)) == stages + 512 * 16 + 1
    assert parameters(LatentDiscriminator(128)) == 128 * 512 + 512 + 512 + 1


@pytest.mark.parametrize("size", range(32, 513, 16))
def test_every_size_ends_at_two_to_four_and_comes_back(size):
    sides = halved_sides(size, 4)
    assert 2 <= sides[-1] <= 4
    encoder = LatentEncoder(size, 1, 1, 2)
    decoder = LatentDecoder(encoder)
    with torch.no_grad():
        z = encoder(torch.zeros(2, 1, size, size))
        images = decoder(z)
    assert z.shape == (2, 2)
    assert images.shape == (2, 1, size, size)
    assert images.abs().max() <= 1


@pytest.mark.parametrize(("size", "side", "places"), [(64, 8, 64), (48, 8, 36), (80, 7, 25)])
def test_codes_may_have_places(size, side, places):
    encoder = LatentEncoder(size, 1, 4, 3, side)
    decoder = LatentDecoder(encoder)
    z = encoder(torch.zeros(1, 1, size, size))
    assert z.shape == (1, 3 * places) == (1, encoder.latent_size)
    assert decoder(z).shape == (1, 1, size, size)
    method = build(image_size=size, latent_side=side).eval()
    assert method.predict(discs(2, size=size)).anomaly_map.shape == (2, 1, size, size)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_each_norm_is_the_one_that_was_asked_for(norm):
    method = build(norm=norm)
    kinds = {"group": nn.GroupNorm, "batch": nn.BatchNorm2d}
    for net in (method.encoder, method.decoder, method.discriminator):
        found = {name for name, kind in kinds.items() for m in net.modules() if isinstance(m, kind)}
        assert found == {norm}
