"""A plain autoencoder with PatchCL-AE's encoder and decoder: the baseline every table needs.

It is trained to copy normal images and scores a pixel by its reconstruction error. The networks
are those of :mod:`medad_fast.methods.patchcl_ae`, so that a difference between the two is the
loss and the score, not the budget.

Source: ``L_pix`` in Table 7 of Lu et al., "PatchCL-AE", Computerized Medical Imaging and Graphics
114 (2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medad_fast.methods.base import Method, Prediction, Stage, Update
from medad_fast.methods.parts.optimization import Schedule, adam, schedule
from medad_fast.methods.parts.score import ImageScore, as_prediction
from medad_fast.nets.autoencoder import Decoder, Downsample, Encoder
from medad_fast.settings import at_least, check_common

__all__ = ["Autoencoder", "AutoencoderConfig"]


@dataclass(frozen=True)
class AutoencoderConfig:
    """Settings of :class:`Autoencoder`; where PatchCL-AE has the same field, its default is meant.

    But for four: the batch size is larger, since a step is cheap; ``learning_rate`` and ``eps`` are
    Adam's usual ones; ``image_score`` is the mean.
    """

    image_size: int = 256  # a multiple of 16 from 32 to 512
    channels: int = 1  # 1 grey, 3 colour
    width: int = 64  # channels of the first block
    units: int = 6  # pairs of convolutions in the encoder's last block
    residual: bool = True
    downsample: Downsample = "average"
    loss: Literal["l1", "mse"] = "mse"  # the choice of most plain autoencoders of the field
    image_score: ImageScore = "mean"  # the usual one: mean error of the image
    top_k: int = 100  # pixels, for image_score "topk"
    quantile: float = 0.99  # of the map, for image_score "quantile"
    map_smoothing: int = 1  # mean filter on the map, an odd side in pixels
    mask_background: bool = False  # whether black pixels of the image score 0
    learning_rate: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: Schedule = "constant"
    epochs: int = 400
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_common(self)
        at_least(self, 1, "units")


class Autoencoder(Method):
    """Scores a pixel by its reconstruction error: the mean over channels of ``|x - x^|^p``."""

    baseline = True
    config: AutoencoderConfig

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or AutoencoderConfig()
        self.encoder = Encoder(
            c.channels, c.width, units=c.units, residual=c.residual, downsample=c.downsample
        )
        self.decoder = Decoder(c.channels, c.width)

    def stages(self) -> Iterator[Stage]:
        """One stage with one update."""
        c = self.config
        update = Update(
            "autoencoder",
            self.parameters,
            self.reconstruction_loss,
            adam(c.learning_rate, c.betas, c.eps),
            schedule(c.schedule),
        )
        yield Stage("reconstruct", (update,), epochs=c.epochs, batch_size=c.batch_size)

    def reconstruction_loss(self, images: Tensor) -> Tensor:
        """Mean error over all pixels and channels."""
        reconstruction = self.decoder(self.encoder(images)[-1])
        compare = F.l1_loss if self.config.loss == "l1" else F.mse_loss
        return compare(reconstruction, images)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """The map is the error that training lowers, absolute or squared."""
        error = images - self.decoder(self.encoder(images)[-1])
        error = error.abs() if self.config.loss == "l1" else error.square()
        return as_prediction(error.mean(dim=1, keepdim=True), images, self.config)
