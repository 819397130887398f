"""A folder of predictions to judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from python_tests.evaluation.predictions import Predictions


@pytest.fixture
def predictions(tmp_path: Path) -> Predictions:
    return Predictions(tmp_path)
