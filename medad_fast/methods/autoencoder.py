"""A plain autoencoder with PatchCL-AE's encoder and decoder: the baseline every table needs.

It is trained to copy normal images and scores a pixel by its reconstruction error. The networks
are those of :mod:`medad_fast.methods.patchcl_ae`, so that a difference between the two is the
loss and the score, not the budget.

Source: ``L_pix`` in Table 7 of Lu et al., "PatchCL-AE", Computerized Medical Imaging and Graphics
114 (2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medad_fast.methods.base import Method, Prediction, Stage, Update
from medad_fast.methods.parts.fields import Betas, Quantile, Smoothing, TopK
from medad_fast.methods.parts.optimization import Schedule, adam, schedule
from medad_fast.methods.parts.score import ImageScore, as_prediction
from medad_fast.nets.autoencoder import Decoder, Downsample, Encoder
from medad_fast.settings import Channels, ImageSize, checked, setting


@checked
class AutoencoderConfig:
    """Settings of :class:`Autoencoder`; where PatchCL-AE has the same field, its default is meant.

    But for four: the batch size is larger, since a step is cheap; ``learning_rate`` and ``eps`` are
    Adam's usual ones; ``image_score`` is the mean.
    """

    image_size: ImageSize = setting(256, "side of the images in pixels")
    channels: Channels = 1
    width: int = setting(64, "channels of the first block", ge=1)
    units: int = setting(6, "pairs of convolutions in the encoder's last block", ge=1)
    residual: bool = setting(True, "whether these pairs are residual units")
    downsample: Downsample = setting("average", "how the encoder halves its maps")
    loss: Literal["l1", "mse"] = setting("mse", "what most plain autoencoders of the field have")
    image_score: ImageScore = setting("mean", "the usual one: mean error of the image")
    top_k: TopK = 100
    quantile: Quantile = 0.99
    map_smoothing: Smoothing = 1
    mask_background: bool = setting(False, "whether black pixels of the image score 0")
    learning_rate: float = setting(0.001, "Adam's usual one", gt=0)
    betas: Betas = setting((0.9, 0.999), "PatchCL-AE's")
    eps: float = setting(1e-8, "Adam's usual one", gt=0)
    schedule: Schedule = setting("constant", "PatchCL-AE's")
    epochs: int = setting(400, "PatchCL-AE's", ge=1)
    batch_size: int = setting(16, "ours: a step is cheap", ge=1)


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
