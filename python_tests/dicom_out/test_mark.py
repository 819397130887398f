"""The warning stands on a picture of any size, and small print only where it can be read."""

from __future__ import annotations

import numpy as np
import pytest

from medad_fast.dicom_out.mark import burn_in

WARNING, SMALL = "NOT FOR DIAGNOSIS", "method, run 0123456789ab, map 0.1 to 0.9"


@pytest.mark.parametrize("size", [(8, 8), (16, 300), (300, 16), (64, 64), (512, 512), (2000, 1700)])
def test_the_warning_is_burned_into_the_top_of_every_picture(size):
    pixels = np.full((*size, 3), 90, np.uint8)
    marked = burn_in(pixels, WARNING, "")
    assert marked.shape == pixels.shape
    assert (pixels == 90).all()
    changed = (marked != pixels).any(axis=-1)
    assert changed.sum() >= 8
    if size[0] >= 64:
        assert not changed[size[0] // 2 :].any()
        assert (marked[changed] == [255, 255, 0]).all(axis=-1).sum() >= 30


@pytest.mark.parametrize(("width", "legible"), [(64, False), (512, True)])
def test_small_print_is_left_out_where_it_could_not_be_read(width, legible):
    pixels = np.zeros((width, width, 3), np.uint8)
    same = np.array_equal(burn_in(pixels, WARNING, SMALL), burn_in(pixels, WARNING, ""))
    assert same is not legible


def test_the_warning_spans_most_of_a_picture_that_is_high_enough():
    marked = burn_in(np.zeros((1000, 400, 3), np.uint8), WARNING, "")
    columns = np.flatnonzero(marked.any(axis=(0, 2)))
    assert columns[-1] - columns[0] > 340
    assert columns[-1] < 400
