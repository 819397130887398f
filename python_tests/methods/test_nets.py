"""The networks' sizes and shapes against the paper's arithmetic."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from medad_fast.nets.autoencoder import BlurPool, Decoder, Encoder
from medad_fast.nets.discriminator import Discriminator, discriminator_stages


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def convolution(kernel_size, inputs, outputs):
    return kernel_size**2 * inputs * outputs + outputs


def test_encoder_has_the_papers_parameters_block_by_block():
    blocks = [parameters(block) for block in Encoder(3).blocks]
    # Table 1 prints these plus 2 R + 1, R being the side at the norm for an input of 224.
    printed = [9_921, 74_305, 295_393, 590_193]
    assert blocks[:4] == [
        count - 2 * side - 1 for count, side in zip(printed, [224, 224, 112, 56], strict=True)
    ]
    assert blocks[4] == 12 * convolution(3, 256, 256)
    assert sum(blocks) == 8_049_536


def test_decoder_has_the_papers_parameters():
    expected = (
        convolution(3, 256, 256)
        + convolution(3, 256, 128)
        + convolution(3, 128, 64)
        + convolution(7, 64, 3)
    )
    assert parameters(Decoder(3)) == expected == 968_323


def test_discriminator_has_the_papers_parameters_and_sides():
    widths = [3, 64, 128, 256, 512, 512, 512]
    expected = convolution(3, 3, 64) + sum(
        convolution(4, inputs, outputs) for inputs, outputs in itertools.pairwise(widths[1:])
    )
    expected += 8192 * 256 + 256 + 256 + 1
    discriminator = Discriminator(224, 3)
    assert parameters(discriminator) == expected == 13_242_497
    sides, features = [], torch.zeros(1, 3, 224, 224)
    with torch.no_grad():
        for layer in discriminator.stages:
            features = layer(features)
            if isinstance(layer, nn.AvgPool2d):
                sides.append(features.shape[-1])
    assert sides == [112, 56, 28, 14, 7, 4]


@pytest.mark.parametrize("size", range(32, 513, 16))
def test_discriminator_ends_at_a_side_of_two_to_four_for_every_size(size):
    stages = discriminator_stages(size)
    side = size
    for _ in range(stages):
        side = (side + 1) // 2
    assert 2 <= side <= 4


def test_encoder_gives_each_blocks_output_and_stops_where_asked():
    images = torch.zeros(2, 1, 48, 48)
    encoder = Encoder(1, 4, units=1)
    shapes = [tuple(features.shape[1:]) for features in encoder(images)]
    assert shapes == [(4, 48, 48), (8, 24, 24), (16, 12, 12), (16, 6, 6), (16, 6, 6)]
    assert len(encoder(images, 2)) == 2


def test_reconstructions_have_the_images_shape_and_range():
    images = torch.randn(2, 3, 32, 32)
    reconstruction = Decoder(3, 4)(Encoder(3, 4, units=1)(images)[-1])
    assert reconstruction.shape == images.shape
    assert reconstruction.abs().max() <= 1


def test_blur_pool_keeps_a_constant_and_removes_the_finest_stripes():
    pool = BlurPool()
    assert torch.equal(pool(torch.ones(1, 2, 8, 8)), torch.ones(1, 2, 4, 4))
    stripes = (torch.arange(8) % 2).float().expand(1, 2, 8, 8)
    torch.testing.assert_close(pool(stripes), torch.full((1, 2, 4, 4), 0.5))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("downsample", ["average", "blur"])
def test_switches_change_no_parameter(residual, downsample):
    assert parameters(Encoder(3, residual=residual, downsample=downsample)) == parameters(
        Encoder(3)
    )
