"""A folder of predictions on a few pictures of noise, written without fitting anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medad_fast.artifacts import predictions
from medad_fast.artifacts.predictions import Groups
from medad_fast.artifacts.scores import ScoreRow
from medad_fast.data import image_of_array
from medad_fast.errors import InputError
from medad_fast.training.baselines import NAMES
from medad_fast.training.thresholds import choose

SIDE = 12


def square_mask(present: bool) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[3:6, 4:8] = 255 * present
    return mask


class Predictions:
    """A folder as ``predict`` writes it: two pictures a patient, odd patients abnormal."""

    def __init__(self, root: Path, patients: int = 6, *, out: str = "out", seed: int = 0) -> None:
        self.out = root / out
        self.groups = Groups()
        self.generator = np.random.default_rng(seed)
        self.rows = [self._row(number) for number in range(2 * patients)]
        self.baselines = self.generator.random((len(self.rows), len(NAMES)))
        self.baselines[:, -1] = np.nan
        scale = self.generator.random((4, SIDE, SIDE))
        self.thresholds = choose(self.generator.normal(0, 1, 30), maps=scale)

    def _row(self, number: int) -> ScoreRow:
        abnormal = number // 2 % 2 == 1
        map_name = f"maps/{number}.npy"
        anomaly_map = self.generator.random((SIDE, SIDE)) + 0.5 * (square_mask(abnormal) > 0)
        self.save_map(map_name, anomaly_map)
        self.save_mask(f"masks/{number}.npy", square_mask(abnormal))
        score = float(self.generator.normal(abnormal))
        return ScoreRow(
            path=f"test/{number}.png",
            patient=f"p{number // 2}",
            slice=0,
            split="test",
            label="abnormal" if abnormal else "normal",
            mask=f"truth/{number}.png" if abnormal else "",
            map=map_name,
            anomaly_score=score,
            threshold=0.0,
            prediction="abnormal" if score > 0 else "normal",
            p_value=0.5,
        )

    def save_map(self, name: str, anomaly_map: np.ndarray) -> None:
        (self.out / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(self.out / name, anomaly_map.astype(np.float32))

    def save_mask(self, name: str, mask: np.ndarray) -> None:
        (self.out / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(self.out / name, (mask != 0).astype(np.uint8))

    def change(self, edit: Callable[[ScoreRow], dict[str, Any]]) -> None:
        self.rows = [replace(row, **edit(row)) for row in self.rows]

    def write(self) -> Path:
        self.out.mkdir(parents=True, exist_ok=True)
        image = image_of_array(np.zeros((SIDE, SIDE)))
        further = list(self.rows[0].further) if self.rows else []
        with predictions.Predictions.write(self.out, further) as results:
            results.add(image, self.rows, self.baselines.tolist(), skipped=3)
            results.add_failure("test/bad.png", InputError(), "is empty")
        about = {
            "run": {"path": "../run", "method": self.out.name, "seed": 0},
            "data": {"root": "../data", "split": "test", "simulated": None},
            "preprocess": {"axis": "axial", "image_size": 32},
            "thresholds": self.thresholds,
            "blocks": None,
        }
        results.finish(about, self.groups)
        return self.out
