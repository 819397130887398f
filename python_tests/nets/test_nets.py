"""The networks' sizes and shapes against the paper's arithmetic."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from medad_fast.nets.autoencoder import BlurPool, Decoder, Encoder
from medad_fast.nets.discriminator import Discriminator, discriminator_stages
from medad_fast.nets.flow import CLAMP, Flow
from medad_fast.nets.strided import StridedDecoder, StridedEncoder, halved_sides


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


def test_the_strided_encoder_has_the_published_layers():
    encoder = StridedEncoder(128, 1, 16, 512)
    widths = [1, 16, 32, 64, 128, 256]
    expected = sum(convolution(4, *pair) for pair in itertools.pairwise(widths))
    expected += convolution(4, 256, 512) + 2 * sum(widths[1:])
    assert parameters(encoder) == expected == 2_795_728
    assert parameters(StridedEncoder(128, 1, 16, 20)) == 780_004
    shapes, features = [], torch.zeros(1, 1, 128, 128)
    with torch.no_grad():
        for layer in encoder.layers:
            features = layer(features)
            if isinstance(layer, nn.Conv2d):
                shapes.append(tuple(features.shape[1:3]))
    assert shapes == [(16, 64), (32, 32), (64, 16), (128, 8), (256, 4), (512, 1)]


@pytest.mark.parametrize("size", [32, 48, 144, 208, 496])
def test_every_size_ends_in_one_vector_and_comes_back(size):
    sides = halved_sides(size, 7)
    assert 4 <= sides[-1] <= 7
    images = torch.zeros(1, 3, size, size)
    encoder = StridedEncoder(size, 3, 1, 5)
    decoder = StridedDecoder(encoder)
    with torch.no_grad():
        latent = encoder.eval()(images)
        assert latent.shape == (1, 5)
        assert decoder.eval()(latent).shape == images.shape


@pytest.mark.parametrize("features", [2, 5])
def test_the_flows_log_determinant_is_that_of_its_jacobian(features):
    flow = Flow(features, 3, 7).double()
    rows = torch.randn(4, features, dtype=torch.float64)
    normal, log_determinant = flow(rows)
    for row, found in zip(rows, log_determinant, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda r: flow(r[None])[0][0], row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, found)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(normal).sum(1)
    torch.testing.assert_close(flow.log_density(rows), base + log_determinant)
    assert torch.autograd.gradcheck(flow.log_density, (rows.requires_grad_(),))


def test_the_flows_density_sums_to_one():
    torch.manual_seed(0)
    flow = Flow(2, 2, 8)
    line = torch.linspace(-12, 12, 601)
    rows = torch.cartesian_prod(line, line)
    with torch.no_grad():
        total = flow.log_density(rows).exp().sum() * (line[1] - line[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-3)


def test_the_flow_has_the_published_size_and_the_same_permutations_from_any_seed():
    flow = Flow(512, 8, 512)
    assert parameters(flow) == 16 * (256 * 512 + 512 + 512 * 512 + 512) == 6_307_840
    other = Flow(512, 8, 512)
    assert torch.equal(flow.permutations, other.permutations)
    assert len({tuple(order.tolist()) for order in flow.permutations}) == 8
    assert not torch.equal(flow.blocks[0].of_first[0].weight, other.blocks[0].of_first[0].weight)


def test_scales_of_the_flow_are_bounded():
    block = Flow(4, 1, 4).blocks[0]
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.fill_(1e6)
        _, log_scale = block(torch.ones(1, 4))
    assert 3.99 * CLAMP < log_scale.item() <= 4 * CLAMP


def test_the_flow_permutes_after_each_block():
    flow = Flow(5, 3, 4)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
        rows = torch.arange(5.0)[None]
        normal, log_determinant = flow(rows)
    expected = rows
    for order in flow.permutations:
        expected = expected[:, order]
    assert torch.equal(normal, expected)
    assert not torch.equal(normal, rows)
    assert log_determinant.item() == 0
