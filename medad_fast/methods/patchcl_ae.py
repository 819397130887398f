"""PatchCL-AE: a denoising autoencoder trained, and scored, by contrasting patches of its features.

Source: Lu, Zhang, Guo, Liu, Li, Wang, "PatchCL-AE: Anomaly detection for medical images using
patch-wise contrastive learning-based auto-encoder", Computerized Medical Imaging and Graphics 114
(2024) 102366. Sections, equations and tables below are the paper's. Its authors published no code;
"re-implementation" is ubaidur404786/patch-cl-ae, and "CUT" is Park et al., ECCV 2020, from whose
code the patch loss descends. What the paper leaves open is a field of the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medad_fast.methods.base import Method, Prediction, Stage, Update
from medad_fast.methods.parts.adversarial import Adversarial, discriminator_loss, generator_loss
from medad_fast.methods.parts.fields import (
    Betas,
    Quantile,
    Smoothing,
    TopK,
    rising,
)
from medad_fast.methods.parts.normals import NormalMaps
from medad_fast.methods.parts.optimization import Schedule, adam, parameters_of, schedule
from medad_fast.methods.parts.pretexts import add_noise
from medad_fast.methods.parts.score import ImageScore, as_prediction, foreground, smooth
from medad_fast.nets.autoencoder import Decoder, Downsample, Encoder, encoder_widths
from medad_fast.nets.discriminator import Discriminator
from medad_fast.nets.projection import ProjectionHead, rows_at
from medad_fast.ops import patch_discrepancy, patch_nce_loss
from medad_fast.settings import Channels, ImageSize, checked, require, setting


@checked
class PatchCLAEConfig:
    """Settings of :class:`PatchCLAE`; each default says where it comes from."""

    image_size: ImageSize = setting(256, "side of the images in pixels, Sec. 4.2.1")
    channels: Channels = 1
    width: int = setting(64, "channels of the first block, Table 1", ge=1)
    units: int = setting(6, "pairs of convolutions in the encoder's last block, Table 1", ge=1)
    residual: bool = setting(True, "open; CUT's encoder has residual units there")
    downsample: Downsample = setting("average", 'open: "a pooling layer"; CUT has "blur"')
    noise_sigma: float = setting(
        0.05, "open: Gaussian; the re-implementation's value, images in [-1, 1]", ge=0
    )
    noise_resolution: tuple[int, ...] = setting(
        (),
        "Empty: noise per pixel, as the paper has it. Departs with numbers: noise is drawn on "
        "grids of these sides, enlarged and added up, so that the decoder learns to remove larger "
        "structures (Kascenas et al., MIDL 2022: 16 for 128 px)",
    )
    layers: Annotated[tuple[int, ...], rising(1, 5)] = setting(
        (1, 2, 3, 4), "Fig. 3; Table 3's widths would fit 3, 4, 5"
    )
    patches: int = setting(256, "positions per layer, Sec. 4.2.1", ge=1)
    projection_dim: int = setting(256, "Table 3", ge=1)
    temperature: float = setting(0.07, "open; CUT and MoCo", gt=0)
    negatives: Literal["image", "batch"] = setting("image", "Sec. 3.1.3")
    detach_key: bool = setting(True, "open; CUT detaches, the re-implementation does not")
    reduction: Literal["mean", "sum"] = setting("sum", 'over positions; Eq. 3, CUT has "mean"')
    foreground_only: bool = setting(
        False, "Departs when true: sample patches that are not all black"
    )
    patch_loss: Literal["contrastive", "cosine", "mse"] = setting("contrastive", "Table 8")
    patch_weight: float = setting(1.0, "Eq. 4; 0 leaves the heads as they were drawn", ge=0)
    pixel_weight: float = setting(
        0.0, "Eq. 4 has no pixel term; Table 7 compares with it, alone or with L_img", ge=0
    )
    pixel_loss: Literal["l1", "mse"] = setting("l1", "open; the error that the pixel score shows")
    adversarial: Adversarial = setting(
        "non_saturating", 'Departs: "saturating" (Algorithm 1) stalls once the discriminator wins'
    )
    adversarial_weight: float = setting(1.0, "Eq. 4; 0 trains without a discriminator", ge=0)
    score: Literal["patch", "pixel", "patch+pixel"] = setting(
        "patch", 'Eq. 7; "pixel": Table 7. Departs: "patch+pixel", the sum, needs normal_margin'
    )
    image_score: ImageScore = setting("topk", "open; the re-implementation's rule")
    top_k: TopK = setting(100, "pixels; the re-implementation's value")
    quantile: Quantile = 0.99
    map_smoothing: Smoothing = setting(1, "Departs above 1: mean filter on the map, side in pixels")
    normal_margin: float | None = setting(
        None,
        "Departs with a number: each layer's map counts in standard deviations from the training "
        "images' mean at a place, and of the sum what exceeds this; for images that lie alike",
        ge=0,
    )
    mask_background: bool = setting(False, "Departs when true: black pixels of the image score 0")
    learning_rate: float = setting(0.002, "Sec. 4.2.1", gt=0)
    betas: Betas = setting((0.9, 0.999), "Sec. 4.2.1")
    eps: float = setting(1e-4, "Sec. 4.2.1", gt=0)
    schedule: Schedule = setting("constant", "open")
    epochs: int = setting(400, 'Sec. 4.2.1, "at most"', ge=1)
    batch_size: int = setting(4, "open; the re-implementation's value", ge=1)

    def __post_init__(self) -> None:
        weights = self.patch_weight + self.pixel_weight + self.adversarial_weight
        require(weights > 0, self, "patch_weight", "above 0 where the other losses weigh nothing")
        sides = self.noise_resolution
        fine = all(1 <= side <= self.image_size for side in sides)
        require(fine, self, "noise_resolution", "a list of values from 1 to image_size")
        scaled = self.score != "patch+pixel" or self.normal_margin is not None
        wanted = "'patch' or 'pixel' without normal_margin, which gives both one scale"
        require(scaled, self, "score", wanted)


class PatchCLAE(Method):
    """Scores a position by how far the encoder's features of image and reconstruction differ."""

    config: PatchCLAEConfig

    def __init__(self, config: PatchCLAEConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or PatchCLAEConfig()
        self.encoder = Encoder(
            c.channels, c.width, units=c.units, residual=c.residual, downsample=c.downsample
        )
        self.decoder = Decoder(c.channels, c.width)
        widths = encoder_widths(c.width)
        self.heads = nn.ModuleList(
            ProjectionHead(widths[layer - 1], c.projection_dim) for layer in c.layers
        )
        self.discriminator = (
            Discriminator(c.image_size, c.channels, c.width) if c.adversarial_weight > 0 else None
        )
        parts = {"patch": len(c.layers), "pixel": 1, "patch+pixel": len(c.layers) + 1}[c.score]
        self.normals = (
            NormalMaps(parts, c.image_size, c.normal_margin, add_up=True)
            if c.normal_margin is not None
            else None
        )
        self._batch: tuple[Tensor, Tensor] | None = None

    def stages(self) -> Iterator[Stage]:
        """One stage; on each batch the discriminator moves first (Algorithm 1)."""
        c = self.config
        how = adam(c.learning_rate, c.betas, c.eps), schedule(c.schedule)
        generator = parameters_of(self.encoder, self.decoder, self.heads)
        updates = [Update("generator", generator, self.generator_loss, *how)]
        if self.discriminator is not None:
            judge = self.discriminator.parameters
            updates.insert(0, Update("discriminator", judge, self.discriminator_loss, *how))
        yield Stage("contrast", tuple(updates), epochs=c.epochs, batch_size=c.batch_size)

    def discriminator_loss(self, images: Tensor) -> Tensor:
        """Real images against reconstructions, which get no gradient."""
        assert self.discriminator is not None
        real = self.discriminator(images)
        fake = self.discriminator(self._reconstruct(images).detach())
        return discriminator_loss(self.config.adversarial, real, fake)

    def generator_loss(self, images: Tensor) -> Tensor:
        """``L_img + L_patch`` (Eq. 4), or with ``L_pix`` (Table 7), each with its weight."""
        c = self.config
        reconstruction = self._reconstruct(images)
        self._batch = None
        loss = reconstruction.new_zeros(())
        if c.patch_weight > 0:
            loss = loss + c.patch_weight * self.patch_loss(images, reconstruction)
        if c.pixel_weight > 0:
            compare = F.l1_loss if c.pixel_loss == "l1" else F.mse_loss
            loss = loss + c.pixel_weight * compare(reconstruction, images)
        if self.discriminator is not None:
            looks_real = self.discriminator(reconstruction)
            loss = loss + c.adversarial_weight * generator_loss(c.adversarial, looks_real)
        return loss

    def patch_loss(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Eq. 3: each patch of the reconstruction should resemble its own patch of the image.

        Args:
            images: clean images ``(B, C, H, W)``, the side of the keys.
            reconstruction: ``(B, C, H, W)``, the side of the queries.

        Returns:
            Scalar: mean (or sum) over positions, summed over layers, mean over images.
        """
        c = self.config
        depth = max(c.layers)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not c.detach_key):
            originals = self.encoder(images, depth)
            ids = [self._sample(originals[layer - 1], images) for layer in c.layers]
            key = self._project(originals, ids)
        query = self._project(self.encoder(reconstruction, depth), ids)
        if c.patch_loss != "mse":
            query = [F.normalize(rows.float(), dim=-1) for rows in query]
            key = [F.normalize(rows.float(), dim=-1) for rows in key]
        if c.patch_loss != "contrastive":
            share = 1.0 if c.patch_loss == "mse" else 0.5
            over_positions = torch.mean if c.reduction == "mean" else torch.sum
            rows = [share * (q - k).square().sum(-1) for q, k in zip(query, key, strict=True)]
            return torch.stack([over_positions(each, dim=1).mean() for each in rows]).sum()
        loss = patch_nce_loss(
            query,
            key,
            temperature=c.temperature,
            negatives=c.negatives,
            detach_key=c.detach_key,
            reduction=c.reduction,
        )
        return loss / len(images) if c.reduction == "sum" else loss

    @torch.no_grad()
    def finish(self, train_normal: Iterable[Tensor], validation_normal: Iterable[Tensor]) -> None:
        """What the maps of the training images are at each place, if that is to be compared."""
        if self.normals is not None:
            self.eval()
            window = self.config.map_smoothing
            self.normals.fit(smooth(self._maps(images), window) for images in train_normal)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """Dense distance of features, summed over layers (Eq. 5 to 7); images are fed clean."""
        return as_prediction(self._maps(images), images, self.config, normals=self.normals)

    def _maps(self, images: Tensor) -> Tensor:
        """The paper's map; with ``normal_margin`` its parts: float32 ``(B, parts, H, W)``."""
        c = self.config
        originals = self.encoder(images)
        reconstruction = self.decoder(originals[-1])
        parts: list[Tensor] = []
        if c.score != "pixel":
            rebuilt = self.encoder(reconstruction, max(c.layers))
            distance = patch_discrepancy(
                [originals[layer - 1] for layer in c.layers],
                [rebuilt[layer - 1] for layer in c.layers],
                size=(images.shape[-2], images.shape[-1]),
                heads=[head.weights() for head in self._heads()],
                reduction="sum" if c.normal_margin is None else "none",
            )
            parts += [distance] if isinstance(distance, Tensor) else distance
        if c.score != "patch":
            parts.append((images - reconstruction).abs().mean(dim=1, keepdim=True))
        return torch.cat([part.float() for part in parts], dim=1)

    def _heads(self) -> Iterator[ProjectionHead]:
        for head in self.heads:
            assert isinstance(head, ProjectionHead)
            yield head

    def _reconstruct(self, images: Tensor) -> Tensor:
        """Reconstruction of the corrupted images.

        Both updates of one batch share it: the discriminator's step, which comes first, leaves the
        autoencoder as it was, so a second pass would give the same images but for the noise.
        """
        if self._batch is None or self._batch[0] is not images:
            features = self.encoder(self._corrupt(images))
            self._batch = images, self.decoder(features[-1])
        return self._batch[1]

    def _corrupt(self, images: Tensor) -> Tensor:
        return add_noise(images, self.config.noise_sigma, self.config.noise_resolution)

    def _sample(self, features: Tensor, images: Tensor) -> Tensor:
        """Distinct positions of one layer's map, ``(S)`` for all images or ``(B, S)``."""
        height, width = features.shape[-2:]
        count = min(self.config.patches, height * width)
        if not self.config.foreground_only:
            return torch.randperm(height * width, device=features.device)[:count]
        inside = F.adaptive_max_pool2d(foreground(images).float(), (height, width)).flatten(1)
        # Background fills up where an image has too little foreground: all need equally many.
        return (inside + torch.rand_like(inside)).topk(count, dim=1).indices

    def _project(self, features: list[Tensor], ids: list[Tensor]) -> list[Tensor]:
        """Rows ``(B, S, D)`` of each compared layer at the sampled positions."""
        return [
            head(rows_at(features[layer - 1], chosen))
            for layer, head, chosen in zip(self.config.layers, self._heads(), ids, strict=True)
        ]
