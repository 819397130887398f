"""Trivial baselines against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medad_fast.errors import InputError
from medad_fast.training import baselines
from medad_fast.training.baselines import NAMES, Baselines


def normal_images(
    count: int = 40, seed: int = 0, channels: int = 1, size: int = 12
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, channels, size, size, generator=generator) * 0.2
    images[:, :, :2] = -1.0  # a background that never varies
    return images.clamp(-1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_values_equal_their_formulas(channels: int) -> None:
    train, test = normal_images(30, 0, channels), normal_images(7, 1, channels)
    values = Baselines.fit(train).values(test)
    known, new = train.double().numpy(), test.double().numpy()

    def gradient(images: np.ndarray) -> np.ndarray:
        down = np.abs(np.diff(images, axis=2)).mean((1, 2, 3))
        return (down + np.abs(np.diff(images, axis=3)).mean((1, 2, 3))) / 2

    features = {
        "mean": lambda images: images.mean((1, 2, 3)),
        "std": lambda images: images.std((1, 2, 3)),
        "gradient": gradient,
    }
    for name, feature in features.items():
        expected = np.abs(feature(new) - feature(known).mean()) / feature(known).std(ddof=1)
        np.testing.assert_allclose(values[name], expected, rtol=1e-10)
    sd = np.maximum(known.std(0, ddof=1), 2 / 255)
    z = np.abs((new - known.mean(0)) / sd).mean((1, 2, 3))
    np.testing.assert_allclose(values["mean_abs_z"], z, rtol=1e-10)
    assert tuple(values) == NAMES
    assert all(column.dtype == torch.float64 for column in values.values())


@pytest.mark.parametrize("count", [10, 60])
def test_pca16_equals_scikit_learn(count: int) -> None:
    from sklearn.decomposition import PCA

    train, test = normal_images(count), normal_images(9, 1)
    rows = test.flatten(1).double().numpy()
    pca = PCA(min(16, count - 1), svd_solver="full").fit(train.flatten(1).double().numpy())
    expected = ((rows - pca.inverse_transform(pca.transform(rows))) ** 2).mean(1)
    np.testing.assert_allclose(Baselines.fit(train).values(test)["pca16"], expected, rtol=1e-8)


def test_pca_of_many_images_takes_an_even_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MAX_PCA_IMAGES", 20)
    monkeypatch.setattr(baselines, "_PIXELS_AT_ONCE", 7)
    state = Baselines.fit(normal_images(50)).state()
    components = state["components"]
    assert components.shape == (16, 144)
    identity = torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(components @ components.T, identity, rtol=0, atol=1e-10)


def test_training_images_of_few_are_reconstructed_and_equal_images_stay_finite() -> None:
    few = normal_images(5)
    assert Baselines.fit(few).values(few)["pca16"].max() < 1e-20
    flat = torch.full((4, 1, 16, 16), 0.25)
    values = Baselines.fit(flat).values(torch.cat([flat, flat + 0.5]))
    for name in ("mean", "std", "gradient", "mean_abs_z", "pca16"):
        assert values[name].isfinite().all()
    assert values["mean"][:4].max() == 0
    assert values["mean"][4:].min() == 0.5


def test_saved_baselines_give_the_same_bits() -> None:
    train, test, sizes = normal_images(), normal_images(6, 1), torch.arange(40.0)
    fitted = Baselines.fit(train, sizes)
    again = Baselines.from_state(fitted.state())
    for name, column in fitted.values(test, torch.arange(6.0)).items():
        assert torch.equal(column, again.values(test, torch.arange(6.0))[name])


def test_an_image_is_scored_alone_as_in_a_crowd() -> None:
    fitted, test = Baselines.fit(normal_images()), normal_images(100, 1)
    crowd = fitted.values(test)
    for number in (0, 63, 64, 99):
        alone = fitted.values(test[number : number + 1])
        for name in NAMES[:-1]:
            assert float(alone[name]) == pytest.approx(float(crowd[name][number]), rel=1e-12)


def test_file_size_counts_only_where_a_file_is_one_image() -> None:
    train, test = normal_images(4), normal_images(3, 1)
    sizes = torch.tensor([100.0, 120.0, torch.nan, 140.0])
    fitted = Baselines.fit(train, sizes)
    found = fitted.values(test, torch.tensor([120.0, 160.0, torch.nan]))["file_size"]
    torch.testing.assert_close(found[:2], torch.tensor([0.0, 2.0], dtype=torch.float64))
    assert found[2].isnan()
    assert fitted.values(test)["file_size"].isnan().all()
    volumes = Baselines.fit(train, torch.full((4,), torch.nan))
    assert volumes.values(test, torch.ones(3))["file_size"].isnan().all()
    assert "file_size" not in volumes.state()


def test_inputs_stay_untouched_and_no_images_give_no_values() -> None:
    train = normal_images()
    kept = train.clone()
    fitted = Baselines.fit(train)
    assert torch.equal(train, kept)
    assert all(len(column) == 0 for column in fitted.values(train[:0]).values())


def test_images_that_do_not_fit_are_refused() -> None:
    train = normal_images(4)
    fitted = Baselines.fit(train)
    with pytest.raises(InputError, match="at least 2"):
        Baselines.fit(train[:1])
    with pytest.raises(InputError, match=r"\(1, 12, 12\) expected"):
        fitted.values(torch.zeros(2, 1, 16, 16))
    with pytest.raises(InputError, match="floating point"):
        fitted.values(torch.zeros(2, 1, 12, 12, dtype=torch.uint8))
    with pytest.raises(InputError, match="finite"):
        Baselines.fit(train * torch.nan)
    with pytest.raises(InputError, match="file_sizes: one for each of 4"):
        Baselines.fit(train, torch.ones(3))
    with pytest.raises(InputError, match="state"):
        Baselines.from_state({"features": torch.zeros(2, 3)})
