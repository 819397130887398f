"""The laws of the nearest-normals baseline."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import medad_fast
from medad_fast.errors import CheckpointError, InputError
from medad_fast.methods import create
from medad_fast.methods.parts.nearest import NearestNormals, farthest_first
from medad_fast.nets.resnet import ResNet18
from medad_fast.training.loop import train
from medad_fast.verbs.fit import fit
from python_tests.methods.small import discs, small
from python_tests.verbs.fit.small_fits import write_pictures


def build(**overrides):
    return small("patch-knn", **overrides)


def bank_of(rows, **settings):
    settings = {"size": 4096, "selection": "random", "neighbours": 1, **settings}
    nearest = NearestNormals(rows.shape[1], **settings)
    nearest.fit([rows[None]])
    return nearest


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    torch.manual_seed(11)
    state = ResNet18().state_dict()
    save_file({**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, path)
    return path


@pytest.mark.parametrize("neighbours", [1, 3])
@pytest.mark.parametrize("rows", [1, 5, 700])
def test_the_distance_is_that_of_a_full_search(rows, neighbours):
    rng = torch.Generator().manual_seed(rows)
    known = torch.randn(rows, 20, generator=rng)
    new = torch.randn(60, 20, generator=rng)
    every = torch.cdist(new.double(), known.double(), compute_mode="donot_use_mm_for_euclid_dist")
    expected = every.sort(dim=1).values[:, : min(neighbours, rows)].mean(dim=1).float()
    found = bank_of(known, neighbours=neighbours)(new)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_a_small_distance_between_large_vectors_keeps_its_digits():
    rng = torch.Generator().manual_seed(0)
    known = 10 + torch.randn(500, 64, generator=rng)
    step = 1e-3 * F.normalize(torch.randn(500, 64, generator=rng), dim=1)
    new = known + step
    expected = torch.linalg.vector_norm(new.double() - known.double(), dim=1).float()
    torch.testing.assert_close(bank_of(known)(new), expected, rtol=1e-5, atol=0)
    assert not bank_of(known)(known).any()  # identical rows: exactly 0


@pytest.mark.parametrize("selection", ["random", "coreset"])
def test_the_bank_holds_rows_that_were_given_at_most_as_many_as_asked(selection):
    rng = torch.Generator().manual_seed(1)
    batches = [torch.randn(4, 30, 8, generator=rng), torch.randn(2, 30, 8, generator=rng)]
    nearest = NearestNormals(8, size=50, selection=selection, neighbours=1)
    nearest.fit(batches)
    assert nearest.bank.shape == (50, 8)
    assert len(nearest.bank.unique(dim=0)) == 50
    every = torch.cat([batch.flatten(0, 1) for batch in batches])
    assert (nearest.bank[:, None] == every).all(dim=2).any(dim=1).all()
    again = NearestNormals(8, size=50, selection=selection, neighbours=1)
    again.fit(batches)
    assert torch.equal(nearest.bank, again.bank)


def test_every_image_is_in_the_bank_in_equal_parts():
    images = torch.arange(10.0)[:, None, None].expand(10, 40, 1)
    nearest = NearestNormals(1, size=30, selection="random", neighbours=1)
    nearest.fit([images[:7], images[7:]])
    counts = torch.bincount(nearest.bank.flatten().long(), minlength=10)
    assert counts.tolist() == [3] * 10


def test_a_coreset_leaves_no_row_far_away():
    rng = torch.Generator().manual_seed(2)
    crowd = 0.01 * torch.randn(300, 4, generator=rng)
    lone = 10 * torch.eye(4)
    rows = torch.cat([crowd, lone])
    chosen = farthest_first(rows, 5, torch.Generator().manual_seed(0))
    assert len(chosen.unique()) == 5
    assert set(range(300, 304)) <= set(chosen.tolist())


def test_features_are_averaged_enlarged_and_stacked():
    method = build(layers=(1, 2), neighbourhood=3, image_size=64).eval()
    images = discs(2, size=64)
    colours = (images.repeat(1, 3, 1, 1) + 1) / 2
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (method.config.input_mean, method.config.input_std)
    )
    with torch.no_grad():
        _, first, second = method.backbone.stages((colours - mean) / std, 2)
        first, second = (
            F.avg_pool2d(each, 3, 1, 1, count_include_pad=False) for each in (first, second)
        )
        expected = torch.cat(
            [first, F.interpolate(second, size=first.shape[-2:], mode="bilinear")], 1
        )
        torch.testing.assert_close(method.features(images), expected)
    assert expected.shape == (2, 8 + 16, 16, 16)


def test_a_training_image_scores_exactly_zero_and_another_does_not():
    images = discs(4)
    method = build(bank_size=4096)
    train(method, images, device="cpu")
    method.finish([images], [images])
    assert method.predict(images).anomaly_score.max() < 1e-4
    assert (method.predict(discs(4, seed=9)).anomaly_score > 1e-3).all()


def test_the_map_points_at_a_lesion():
    normal = discs(32, size=128, seed=1)
    method = build(image_size=128, width=8, seed=3)
    method.finish([normal], [])
    lesion = discs(16, size=128, seed=2)
    checks = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).repeat(12, 12)
    lesion[:, :, 52:76, 52:76] = checks
    maps = method.predict(lesion).anomaly_map
    inside = maps[:, 0, 52:76, 52:76].mean((1, 2))
    assert (inside > 2 * maps.mean((1, 2, 3))).all()


def test_it_trains_nothing_and_keeps_the_weights():
    method = build()
    before = {name: value.clone() for name, value in method.backbone.state_dict().items()}
    assert list(method.stages()) == []
    train(method, discs(4), device="cpu")
    method.finish([discs(4)], [])
    for name, value in method.backbone.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_named_weights_are_used_and_a_run_needs_the_file_no_more(weights, tmp_path):
    write_pictures(tmp_path / "data/train/normal", 10, 1)
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(weights.read_bytes())
    run = fit(
        "patch-knn",
        tmp_path / "data",
        tmp_path / "run",
        device="cpu",
        weights=str(copy),
        image_size=32,
        bank_size=100,
    )
    torch.manual_seed(11)
    expected = ResNet18().state_dict()
    for name, value in run.method.backbone.state_dict().items():
        assert torch.equal(value, expected[name])
    copy.unlink()
    again = medad_fast.load(tmp_path / "run")
    assert len(again.method.normals.bank) == 100
    images = discs(2)
    assert torch.equal(again.predict(images).anomaly_map, run.predict(images).anomaly_map)


def test_without_weights_it_says_what_to_name_and_the_folder_stays_usable(tmp_path):
    write_pictures(tmp_path / "data/train/normal", 10, 1)
    call = {"data": tmp_path / "data", "out": tmp_path / "run", "device": "cpu", "image_size": 32}
    with pytest.raises(InputError, match="weights must name a local safetensors file"):
        fit("patch-knn", **call)
    with pytest.raises(InputError, match="cannot be read"):
        fit("patch-knn", weights=str(tmp_path / "none.safetensors"), **call)
    fit("patch-knn", weights="random", bank_size=50, **call)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layers", ()),
        ("layers", (3, 2)),
        ("layers", (5,)),
        ("bank_size", 0),
        ("neighbours", 0),
        ("neighbourhood", 2),
        ("selection", "greedy"),
        ("input_std", (1.0, 0.0, 1.0)),
        ("input_mean", (0.5,)),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(InputError, match=f"^{field} must be .*, got "):
        create("patch-knn", **{field: value})


def test_published_weights_need_their_width():
    with pytest.raises(InputError, match="width must be 64 with weights"):
        create("patch-knn", weights="resnet18.safetensors", width=32)


@pytest.mark.parametrize("shape", [(0, 4), (3, 5), (4,)])
def test_a_damaged_bank_is_refused(shape):
    with pytest.raises(CheckpointError, match=r"bank of \(N, \d+\) expected"):
        build().normals.make_room(torch.zeros(shape))
