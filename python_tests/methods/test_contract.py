"""What every method keeps, whatever it computes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from medad_fast.errors import InputError
from medad_fast.methods import config_class, create, list_methods
from medad_fast.settings import to_fields
from medad_fast.training.loop import train
from python_tests.methods.small import LESION, SMALL, discs, small

pytestmark = pytest.mark.parametrize("name", list_methods())


def known_to(name, fields):
    """Those of the fields that a method has: one that trains nothing has no epochs."""
    return {field: value for field, value in fields.items() if hasattr(config_class(name), field)}


SIZES = [32, 48, 64, pytest.param(512, marks=pytest.mark.slow)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_trains_and_scores_every_size_and_both_channel_counts(name, size, channels):
    images = discs(3, size=size, channels=channels)
    method = small(name, image_size=size, channels=channels)
    train(method, images, images, max_steps=1, device="cpu")
    method.finish([images], [images])
    score, anomaly_map = method.predict(images)
    assert score.shape == (3,)
    assert anomaly_map.shape == (3, 1, size, size)
    assert score.dtype == anomaly_map.dtype == torch.float32
    assert torch.isfinite(score).all()
    assert torch.isfinite(anomaly_map).all()
    assert not score.requires_grad


def test_a_lesion_scores_higher_than_no_lesion_and_the_map_points_at_it(name):
    fields = {"width": 8, "epochs": 10, "learning_rate": 0.002, "schedule": "cosine"}
    method = small(name, seed=3, **known_to(name, fields), **LESION[name])
    size, scale = method.config.image_size, method.config.image_size // 32
    normal = discs(32, size=size, seed=1)
    train(method, normal, discs(16, size=size, seed=5), seed=3, device="cpu")
    method.finish([normal], [discs(8, size=size, seed=4)])
    healthy = discs(16, size=size, seed=2)
    lesion = healthy.clone()
    inside = slice(13 * scale, 19 * scale)
    board = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).repeat(3, 3)
    lesion[:, :, inside, inside] = board.kron(torch.ones(scale, scale))
    score, anomaly_map = method.predict(lesion)
    assert (score > method.predict(healthy).anomaly_score).float().mean() > 0.9
    within = anomaly_map[:, 0, inside, inside].mean((1, 2))
    assert (within > 2 * anomaly_map.mean((1, 2, 3))).float().mean() > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name):
    images = discs(6)

    def weights(seed):
        method = small(name, seed=seed)
        train(method, images, images[:3], seed=seed, max_steps=3, device="cpu")
        return torch.cat([value.flatten() for value in method.state_dict().values()])

    assert torch.equal(weights(5), weights(5))
    learns = any(True for _ in small(name).parameters())
    assert torch.equal(weights(5), weights(6)) != learns


def test_training_leaves_the_callers_random_numbers_alone(name):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    train(small(name), discs(4), discs(4), max_steps=1, device="cpu")
    assert torch.equal(torch.rand(1), expected)


def test_predicting_draws_no_random_numbers(name):
    images = discs(2)
    method = small(name).eval()
    before = torch.random.get_rng_state()
    method.predict(images)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_score_does_not_depend_on_the_images_beside_it(name):
    images = discs(7)
    method = small(name).eval()
    together = method.predict(images)
    for start, stop in ((0, 1), (1, 3), (3, 7)):
        part = method.predict(images[start:stop])
        torch.testing.assert_close(
            part.anomaly_map, together.anomaly_map[start:stop], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            part.anomaly_score, together.anomaly_score[start:stop], rtol=1e-4, atol=1e-5
        )


def test_an_unknown_setting_is_refused_by_name(name):
    with pytest.raises(InputError, match="has no setting 'widht'; it has image_size, channels"):
        create(name, widht=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 40),
        ("image_size", 16),
        ("image_size", 528),
        ("image_size", 64.0),
        ("channels", 2),
        ("width", 0),
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("batch_size", 0),
        ("epochs", 0),
        ("image_score", "median"),
        ("quantile", 1.5),
        ("map_smoothing", 4),
        ("mask_background", "yes"),
        ("betas", (0.9,)),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name, field, value):
    if not hasattr(config_class(name), field):
        pytest.skip(f"{name} has no {field}")
    with pytest.raises(InputError, match=f"^{field} must be .*, got "):
        create(name, **{field: value})


def test_settings_survive_being_written_down(name):
    config = config_class(name)(**SMALL[name])
    assert config_class(name)(**to_fields(config)) == config
    assert dataclasses.is_dataclass(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.width = 8
