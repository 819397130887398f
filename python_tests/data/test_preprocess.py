"""Settings of preprocessing survive being saved, and wrong ones are refused by name."""

from __future__ import annotations

import json
import re

import pytest

from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.errors import InputError


def test_settings_survive_json():
    config = PreprocessConfig(image_size=96, modality="CT", axis="coronal", percentiles=(1.0, 99.0))
    assert PreprocessConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"size": 96}, "no setting 'size'"),
        ({"image_size": 8}, "image_size"),
        ({"image_size": "96"}, "image_size"),
        ({"image_size": True}, "image_size"),
        ({"channels": 2}, "channels"),
        ({"channels": None}, "channels"),
        ({"modality": "mr"}, "modality"),
        ({"axis": "oblique"}, "axis"),
        ({"min_foreground": 1.5}, "min_foreground"),
        ({"min_foreground": float("nan")}, "min_foreground"),
        ({"percentiles": [99, 1]}, "percentiles"),
        ({"percentiles": [0, 101]}, "percentiles"),
        ({"percentiles": 5}, "percentiles"),
        ({"ct_window_hu": [0]}, "ct_window_hu"),
        ({"ct_window_hu": [0, float("inf")]}, "ct_window_hu"),
        ({"grey_window": [5, 5]}, "grey_window"),
        ({"volume": -1}, "volume"),
        ({"voi_window": 1}, "voi_window"),
        ({"modality": None}, "modality"),
        ({"nonfinite": "ignore"}, "nonfinite"),
    ],
)
def test_wrong_settings_are_refused_by_name(values, reason):
    with pytest.raises(InputError, match=reason) as error:
        PreprocessConfig.from_dict(values)
    assert "size" in values or re.fullmatch(f"{reason} must be .*, got .*", str(error.value))
