"""Nearest normals: how far a patch's features are from those of any patch of a normal image.

A baseline that trains nothing. The features are those of a ResNet-18 whose weights lie in a local
file that the user names; nothing is downloaded, and what the weights were trained on, and under
which licence, is the user's to know.

Source: Roth et al., "Towards total recall in industrial anomaly detection" (PatchCore), CVPR 2022:
middle layers, averaged over neighbouring positions, a greedy coreset of them, and the distance to
the nearest. After Cohen and Hoshen, "Sub-image anomaly detection with deep pyramid
correspondences", 2020.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from medad_fast.errors import InputError
from medad_fast.methods.base import Mapped, Method, Prediction, Stage
from medad_fast.methods.parts.nearest import NearestNormals, Selection
from medad_fast.methods.parts.score import ImageScore, as_prediction, smooth
from medad_fast.nets.resnet import ResNet18
from medad_fast.settings import at_least, check_common, require, rising

__all__ = ["PatchKNN", "PatchKNNConfig"]

RANDOM = "random"


@dataclass(frozen=True)
class PatchKNNConfig:
    """Settings of :class:`PatchKNN`; each default says where it comes from."""

    image_size: int = 224  # PatchCore; a multiple of 16 from 32 to 512
    channels: int = 1  # 1 grey, 3 colour; grey is repeated three times
    # A local safetensors file of a ResNet-18 (torchvision's names). It must be named; "random"
    # leaves the filters as they were drawn, a baseline of the baseline.
    weights: str = ""
    width: int = 64  # channels of the first stage, ResNet-18; published weights have 64
    layers: tuple[int, ...] = (2, 3)  # stages whose features are compared, PatchCore
    neighbourhood: int = 3  # positions averaged on each side, PatchCore; an odd number
    # What the weights expect of colours in [0, 1]: ImageNet's mean and deviation.
    input_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    input_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    bank_size: int = 4096  # patches kept at most; PatchCore keeps 1 to 25 % of all
    selection: Selection = "coreset"  # PatchCore; "random" is quicker
    neighbours: int = 1  # nearest patches whose mean distance counts, PatchCore
    # Departs: PatchCore also weighs the largest distance by how dense the bank is there.
    image_score: ImageScore = "max"
    top_k: int = 100  # pixels, for image_score "topk"
    quantile: float = 0.99  # of the map, for image_score "quantile"
    map_smoothing: int = 1  # mean filter on the map, an odd side in pixels
    mask_background: bool = False  # whether black pixels of the map are 0

    def __post_init__(self) -> None:
        check_common(self)
        at_least(self, 1, "bank_size", "neighbours", "neighbourhood")
        require(self.neighbourhood % 2 == 1, self, "neighbourhood", "odd")
        require(all(each > 0 for each in self.input_std), self, "input_std", "above 0")
        rising(self, "layers", 4)
        require(self.weights in ("", RANDOM) or self.width == 64, self, "width", "64 with weights")


class PatchKNN(Method):
    """Scores a position by the distance of its features to the nearest normal ones."""

    baseline = True
    config: PatchKNNConfig
    input_mean: Tensor
    input_std: Tensor

    def __init__(self, config: PatchKNNConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or PatchKNNConfig()
        self.backbone = ResNet18(c.width)
        self.normals = NearestNormals(
            sum(self.backbone.widths[layer] for layer in c.layers),
            size=c.bank_size,
            selection=c.selection,
            neighbours=c.neighbours,
        )
        self.register_buffer("input_mean", torch.tensor(c.input_mean)[:, None, None])
        self.register_buffer("input_std", torch.tensor(c.input_std)[:, None, None])

    def initialize(self) -> None:
        """Read the weights.

        Raises:
            InputError: none are named, or the file cannot be used.
        """
        if not self.config.weights:
            raise InputError(
                "weights must name a local safetensors file of a ResNet-18, or be 'random': "
                "nothing is downloaded"
            )
        if self.config.weights != RANDOM:
            self.backbone.load_published(self.config.weights)

    def stages(self) -> Iterator[Stage]:
        """None: nothing is trained."""
        return iter(())

    @torch.no_grad()
    def finish(self, train_normal: Iterable[Tensor], validation_normal: Iterable[Tensor]) -> None:
        """Fill the bank with features of the training images."""
        self.eval()

        def rows(images: Tensor) -> Tensor:
            return self.features(images).flatten(2).transpose(1, 2)

        self.normals.fit(Mapped(rows, train_normal))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """Distances at the grid of the first layer, enlarged to the images."""
        features = self.features(images)
        batch, _, height, width = features.shape
        rows = features.permute(0, 2, 3, 1).flatten(0, 2)
        grid = self.normals(rows).reshape(batch, 1, height, width)
        maps = F.interpolate(grid, size=images.shape[-2:], mode="bilinear", align_corners=False)
        return as_prediction(maps, images, self.config)

    def features(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` to ``(B, D, h, w)`` float32 on the grid of the first layer."""
        c = self.config
        colours = images.expand(-1, 3, -1, -1)
        colours = ((colours + 1) / 2 - self.input_mean) / self.input_std
        outputs = self.backbone.stages(colours, max(c.layers))
        chosen = [smooth(outputs[layer].float(), c.neighbourhood) for layer in c.layers]
        size = chosen[0].shape[-2:]
        chosen[1:] = [
            F.interpolate(each, size=size, mode="bilinear", align_corners=False)
            for each in chosen[1:]
        ]
        return torch.cat(chosen, dim=1)
