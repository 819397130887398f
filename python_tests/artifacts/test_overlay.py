"""Maps as colours: one scale, rising lightness, and normal images that look normal."""

from __future__ import annotations

import numpy as np
import pytest

from medad_fast.artifacts.overlay import colour_map, colourise, grey_levels, overlay
from medad_fast.errors import InputError


def lightness(colours: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2lab

    return rgb2lab(colours[None] / 255.0)[0, :, 0]


def test_larger_values_are_never_darker() -> None:
    assert (np.diff(lightness(colour_map())) > -0.2).all()
    assert lightness(colour_map())[-1] - lightness(colour_map())[0] > 90


def test_below_low_the_image_is_untouched() -> None:
    pixels = np.arange(64.0).reshape(8, 8)
    drawn = overlay(pixels, np.full((8, 8), 0.3), low=0.5, high=1.0)
    grey = grey_levels(pixels)
    assert (drawn == grey[:, :, None]).all()


def test_the_scale_is_the_given_one_not_the_maps_own() -> None:
    dim, bright = np.full((4, 4), 0.1), np.full((4, 4), 0.9)
    assert colourise(dim, low=0, high=1).max() < 30
    assert colourise(bright, low=0, high=1).min() > 225
    assert colourise(np.array([[-5.0, 7.0]]), low=0, high=1).tolist() == [[0, 255]]


def test_colour_pictures_keep_their_colours() -> None:
    pixels = np.zeros((4, 4, 3))
    pixels[..., 0] = 1.0
    drawn = overlay(pixels, np.zeros((4, 4)), low=0.5, high=1.0)
    assert (drawn == [255, 0, 0]).all()


def test_a_constant_image_is_drawn() -> None:
    assert (grey_levels(np.full((3, 3), 7.0)) == 0).all()


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, np.inf), (np.nan, 1.0)])
def test_a_scale_without_length_is_refused(low: float, high: float) -> None:
    with pytest.raises(InputError, match="low, high"):
        overlay(np.zeros((2, 2)), np.zeros((2, 2)), low=low, high=high)


def test_a_map_on_another_grid_is_refused() -> None:
    with pytest.raises(InputError, match="grid of the pixels"):
        overlay(np.zeros((2, 3)), np.zeros((3, 2)), low=0, high=1)
