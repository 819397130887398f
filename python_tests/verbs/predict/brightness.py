"""A method whose maps can be told from the pictures, and pictures with one bright spot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medad_fast.artifacts.run import Run
from medad_fast.data.geometry import Axis
from medad_fast.data.pipeline import Pipeline
from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.methods.base import Method, Prediction, Stage
from medad_fast.training.baselines import Baselines
from medad_fast.training.thresholds import choose

SIZE = 32
SLICES = 4


@dataclass(frozen=True)
class BrightnessConfig:
    image_size: int = SIZE
    channels: int = 1


class Brightness(Method):
    """Takes bright pixels for anomalies: its maps can be told from the pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.config = BrightnessConfig()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def stages(self) -> Iterator[Stage]:
        return iter(())

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        anomaly_map = (images.mean(1, keepdim=True) + 1) * self.weight
        return Prediction(anomaly_map.flatten(1).amax(1), anomaly_map)


def make_run(method: Method, axis: Axis = "axial") -> Run:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(20, 1, SIZE, SIZE, generator=generator) - 0.5
    prediction = method.predict(images).anomaly_map.nan_to_num()
    return Run(
        path=Path("runs/brightness"),
        name="brightness",
        method=method,
        pipeline=Pipeline(
            # A fixed window: what is bright in one image is as bright in another.
            PreprocessConfig(SIZE, modality="CT", axis=axis, ct_window_hu=(0.0, 500.0))
        ),
        thresholds=choose(torch.linspace(0.5, 1.0, 20), maps=prediction),
        baselines=Baselines.fit(images, torch.arange(20.0)),
        seed=0,
    )


def anatomy(seed: int, spot: tuple[int, int, int] | None = None) -> np.ndarray:
    """A grey box of noise ``(X, Y, Z)`` in air, with one bright voxel."""
    volume = np.full((20, 24, SLICES), -1000, dtype=np.float32)
    shape = (14, 18, SLICES)
    volume[3:17, 3:21] = np.random.default_rng(seed).normal(100, 5, shape)
    if spot is not None:
        volume[spot] = 400
    return volume


AFFINE = np.array([[-2.0, 0, 0, 5], [0, 2, 0, -7], [0, 0, 5, 11], [0, 0, 0, 1]])
