"""The folder that most fits are of."""

from __future__ import annotations

import pytest

from python_tests.verbs.fit.small_fits import write_pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_pictures(root / "train/normal", 10, 1)
    write_pictures(root / "validation/normal", 4, 2)
    write_pictures(root / "train/unlabeled", 5, 4)
    write_pictures(root / "test/normal", 2, 3)
    return root
