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
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from medad_fast.errors import InputError
from medad_fast.methods.base import Mapped, Method, Prediction, Stage
from medad_fast.methods.parts.fields import ODD, Quantile, Smoothing, TopK, rising
from medad_fast.methods.parts.nearest import NearestNormals, Selection
from medad_fast.methods.parts.score import ImageScore, as_prediction, smooth
from medad_fast.nets.resnet import ResNet18
from medad_fast.settings import Channels, ImageSize, Rule, checked, require, setting

RANDOM = "random"
POSITIVE = Rule("three values above 0", lambda values: min(values) > 0)


@checked
class PatchKNNConfig:
    """Settings of :class:`PatchKNN`; each default says where it comes from."""

    image_size: ImageSize = setting(224, "side of the images in pixels, PatchCore")
    channels: Channels = setting(1, "grey or colour; grey is repeated three times")
    weights: str = setting(
        "",
        "A local safetensors file of a ResNet-18 (torchvision's names). It must be named; "
        '"random" leaves the filters as they were drawn, a baseline of the baseline',
    )
    width: int = setting(64, "channels of the first stage, ResNet-18; 64 with weights", ge=1)
    layers: Annotated[tuple[int, ...], rising(1, 4)] = setting(
        (2, 3), "stages whose features are compared, PatchCore"
    )
    neighbourhood: Annotated[int, ODD] = setting(3, "positions averaged on each side, PatchCore")
    input_mean: tuple[float, float, float] = setting(
        (0.485, 0.456, 0.406), "what the weights expect of colours in [0, 1]: ImageNet's mean"
    )
    input_std: Annotated[tuple[float, float, float], POSITIVE] = setting(
        (0.229, 0.224, 0.225), "what the weights expect of them: ImageNet's deviation"
    )
    bank_size: int = setting(4096, "patches kept at most; PatchCore keeps 1 to 25 % of all", ge=1)
    selection: Selection = setting("coreset", 'PatchCore; "random" is quicker')
    neighbours: int = setting(1, "nearest patches whose mean distance counts, PatchCore", ge=1)
    image_score: ImageScore = setting(
        "max", "Departs: PatchCore also weighs the largest by how dense the bank is there"
    )
    top_k: TopK = 100
    quantile: Quantile = 0.99
    map_smoothing: Smoothing = 1
    mask_background: bool = setting(False, "whether black pixels of the map are 0")

    def __post_init__(self) -> None:
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
