"""PatchCL-AE's score and map: distances of features, enlarged and added."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional as F

from medad_fast.methods.parts.normals import NormalMaps
from medad_fast.methods.parts.score import foreground, smooth
from python_tests.methods.small import discs, small

build = partial(small, "patchcl-ae")


def test_an_image_that_is_rebuilt_exactly_scores_exactly_zero():
    method = build().eval()
    images = discs(2)
    method.decoder = torch.nn.Module()
    method.decoder.forward = lambda features: images
    score, anomaly_map = method.predict(images)
    assert not anomaly_map.any()
    assert not score.any()


def test_the_map_is_the_sum_over_layers_of_enlarged_distances():
    method = build().eval()
    images = discs(2)
    with torch.no_grad():
        original = method.encoder(images)
        rebuilt = method.encoder(method.decoder(original[-1]))
        expected = 0
        for layer, head in zip(method.config.layers, method.heads, strict=True):
            u, v = (
                head(maps[layer - 1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
                for maps in (original, rebuilt)
            )
            distance = 1 - F.cosine_similarity(u, v, dim=1)[:, None]
            expected += F.interpolate(distance, size=(32, 32), mode="bilinear")
    torch.testing.assert_close(method.predict(images).anomaly_map, expected, rtol=1e-4, atol=1e-5)


def test_score_rules_agree_with_sorting():
    images = discs(3)
    maps = build().eval().predict(images).anomaly_map.flatten(1).sort(descending=True).values
    for rule, expected in (
        ("max", maps[:, 0]),
        ("mean", maps.mean(1)),
        ("topk", maps[:, :100].mean(1)),
        ("quantile", maps[:, 10]),  # 1 % of 1,024 pixels are 10.24
    ):
        score = build(image_score=rule).eval().predict(images).anomaly_score
        torch.testing.assert_close(score, expected)


def test_black_pixels_score_zero_where_asked():
    images = discs(2)
    masked = build(mask_background=True).eval().predict(images).anomaly_map
    plain = build().eval().predict(images).anomaly_map
    assert torch.equal(masked, plain * foreground(images))
    assert (plain[~foreground(images)] > 0).any()


def test_maps_count_by_what_is_normal_at_a_place_where_asked():
    images = discs(6)
    method = build(score="patch+pixel", normal_margin=0.1).eval()
    assert method.normals is not None
    patch, pixel = (build(score=s).eval().predict(images).anomaly_map for s in ("patch", "pixel"))
    sums = method.predict(images).anomaly_map  # nothing learned yet: the plain sum, less the margin
    torch.testing.assert_close(sums, (patch + pixel - 0.1).clamp(min=0), rtol=1e-4, atol=1e-5)

    method.finish([images[:4], images[4:]], [])
    parts = method._maps(images)
    assert parts.shape[1] == len(method.config.layers) + 1
    deviation = smooth(parts.std(0, correction=0, keepdim=True), 7)
    deviation = deviation + 0.5 * deviation.mean((2, 3), keepdim=True)
    unusual = ((parts - smooth(parts.mean(0, keepdim=True), 7)) / deviation).sum(1, keepdim=True)
    torch.testing.assert_close(
        method.predict(images).anomaly_map, (unusual - 0.1).clamp(min=0), rtol=1e-3, atol=1e-3
    )


def test_maps_that_never_vary_stay_finite():
    normals = NormalMaps(2, 32, margin=0.0)
    normals.fit([torch.ones(3, 2, 32, 32)])
    assert torch.equal(normals(torch.full((1, 2, 32, 32), 3.0)), torch.full((1, 2, 32, 32), 2.0))
