"""A folder of predictions on a few pictures of noise, written without fitting anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medad_fast.artifacts.scores import ScoreRow, score_cells, score_columns, write_table
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
        self.data, self.out = root / "data", root / out
        self.generator = np.random.default_rng(seed)
        self.rows = [self._row(number) for number in range(2 * patients)]
        self.baselines = self.generator.random((len(self.rows), len(NAMES)))
        self.baselines[:, -1] = np.nan
        scale = self.generator.random((4, SIDE, SIDE))
        self.thresholds = choose(self.generator.normal(0, 1, 30), maps=scale)

    def _row(self, number: int) -> ScoreRow:
        abnormal = number // 2 % 2 == 1
        map_name, mask_name = f"maps/{number}.npy", f"masks/{number}.png"
        anomaly_map = self.generator.random((SIDE, SIDE)) + 0.5 * (square_mask(abnormal) > 0)
        self.save_map(map_name, anomaly_map)
        self.save_mask(mask_name, square_mask(abnormal))
        score = float(self.generator.normal(abnormal))
        return ScoreRow(
            path=f"test/{number}.png",
            patient=f"p{number // 2}",
            slice=0,
            split="test",
            label="abnormal" if abnormal else "normal",
            mask=mask_name if abnormal else "",
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
        from PIL import Image

        (self.data / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(self.data / name)

    def change(self, edit: Callable[[ScoreRow], dict[str, Any]]) -> None:
        self.rows = [replace(row, **edit(row)) for row in self.rows]

    def write(self) -> Path:
        with write_table(self.out / "scores.csv", score_columns()) as table:
            table.write(score_cells(row) for row in self.rows)
        with write_table(self.out / "baselines.csv", NAMES) as table:
            table.write(self.baselines.tolist())
        about = {
            "run": {"method": self.out.name, "seed": 0},
            "data": {"root": str(self.data)},
            "preprocess": {"axis": "axial"},
            "thresholds": self.thresholds,
            "counts": {"skipped_slices": 3, "failed_files": 1},
        }
        (self.out / "predict.json").write_text(json.dumps(about), encoding="utf-8")
        return self.out
