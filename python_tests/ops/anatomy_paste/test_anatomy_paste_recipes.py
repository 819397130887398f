"""The parameters of anatomy paste are drawn as the papers' code draws them."""

from __future__ import annotations

import torch

from medad_fast.ops import AnatomyPasteParams, anatomy_paste


def test_sampled_parameters_are_the_papers():
    rng = torch.Generator().manual_seed(0)
    params = AnatomyPasteParams.sample(20000, 256, generator=rng)
    area = params.width * params.height / 256**2
    assert 0.0185 < area.min() < 0.0205
    assert 0.149 < area.max() < 0.152
    assert (params.width / params.height).log().abs().max() < 1.25
    assert set(params.sigma.tolist()) == set(range(15))
    assert set((params.opacity * 255).round().int().tolist()) == set(range(150, 255))
    assert 0.9 <= params.brightness.min() < 0.901
    assert 1.099 < params.contrast.max() <= 1.1
    assert (params.margin == 10).all()
    assert set(params.shape.tolist()) == {0, 1}
    assert set(params.jitter_order.tolist()) == {0, 1}
    assert (params.source_index == -1).all()
    assert params.fallback_centre.max() == 254
    corner = params.source_corner + torch.stack([params.height, params.width], 1)
    assert (params.source_corner >= 0).all()
    assert (corner <= 256).all()
    half = params.width // 2 - params.margin
    assert (half >= 0).all()  # never inside out at 256 pixels
    again = AnatomyPasteParams.sample(20000, 256, generator=torch.Generator().manual_seed(0))
    assert torch.equal(params.integers, again.integers)
    assert torch.equal(params.reals, again.reals)


def test_sampled_foreign_patches_are_the_papers():
    rng = torch.Generator().manual_seed(0)
    params = AnatomyPasteParams.sample(20000, 64, generator=rng, kind="foreign_patch")
    changed = params.opacity > 0
    assert 0.48 < changed.double().mean() < 0.52
    assert (params.source_index != torch.arange(20000)).all()
    assert params.source_index.min() >= 0
    size = torch.stack([params.height, params.width], 1)
    inner = ((params.source_corner > 0) & (params.source_corner + size < 64)).all(1)
    assert set(size[inner][:, 0].tolist()) == set(range(6, 25, 2))
    centre = (params.source_corner + size // 2)[inner]
    assert centre.min() == 6
    assert centre.max() == 56
    # The patch comes from where it goes to, and the gate is its square.
    first = params[:200]
    images = torch.rand(200, 1, 64, 64, generator=rng)
    first.integers[:, 12] %= 200
    result = anatomy_paste(images, None, first)
    other = images[first.source_index]
    expected = torch.where(result.gate > 0, torch.lerp(images, other, result.gate), images)
    torch.testing.assert_close(result.images, expected)
    assert torch.equal((result.gate > 0).sum((1, 2, 3)), size[:200].prod(1) * changed[:200])
