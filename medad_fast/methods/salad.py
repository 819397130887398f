"""SALAD: translation from image to latent to image, with a latent that is kept near a centre.

Source: Zhao et al., "Anomaly detection for medical images using self-supervised and
translation-consistent features", IEEE Transactions on Medical Imaging 40(12), 2021, 3641-3651.

**The paper could not be read, and no code of it was found: this is SALAD-style.** Of it we know the
abstract, and what Lu et al. ("PatchCL-AE", 2024, with authors of the same group) say: images are
translated to a latent space and back; a structure similarity loss and a centre constraint loss
regulate the translation; an adversarial loss judges the images; a self-supervised module learns
from raw normal images; the score joins self-supervised and translation-consistent features, and is
pixel-wise. Everything else is ours: networks, pretexts, the form and weight of each term of loss
and score, warm-up, guards against a collapse, normalisation, optimiser. Figures made with this
module are no reproduction of the paper's.

Three other methods are called SALAD and are not meant: Bozorgtabar et al., MICCAI 2020
(self-supervised aggregation learning, chest X-ray), Lee et al., COMPSAC 2021 (time series), and
``MaticFuc/SALAD`` (logical anomalies of products).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medad_fast.methods.base import Method, Prediction, Stage, Update
from medad_fast.methods.parts.adversarial import Adversarial, discriminator_loss, generator_loss
from medad_fast.methods.parts.fields import Betas, Quantile, Share, Smoothing, TopK
from medad_fast.methods.parts.latent_centre import LatentCentre, spread_loss, variation_kept
from medad_fast.methods.parts.normals import NormalMaps, NormalTerms
from medad_fast.methods.parts.optimization import Schedule, adam, parameters_of, schedule
from medad_fast.methods.parts.pretexts import Corruption, corrupt, quarter_turns
from medad_fast.methods.parts.score import ImageScore, finish_maps, score_images, smooth
from medad_fast.nets.strided import (
    ImageDiscriminator,
    LatentDecoder,
    LatentDiscriminator,
    LatentEncoder,
    Norm,
)
from medad_fast.ops import ssim
from medad_fast.settings import Channels, ImageSize, checked, require, setting

DATA_RANGE = 2.0  # images lie in [-1, 1]
LEAST_VARIATION = 0.01  # of the images' own: reconstructions that vary less are all one picture


TERMS = ("reconstruction", "structure", "consistency", "centre", "rotation")
"""Of the score; their weights are the fields ``score_<name>``."""
AFTER_WARMUP = ("adversarial", "latent_adversarial", "centre", "prior")
"""Losses that begin once there is a centre."""
DURING_WARMUP = ("reconstruction", "structure", "consistency", "restore", "rotation", "spread")
LOSSES = (*AFTER_WARMUP, *DURING_WARMUP)
"""Of encoder and decoder; their weights are the fields ``<name>_weight``."""


@checked
class SALADConfig:
    """Settings of :class:`SALAD`; of the paper's, none is known, so every default is ours.

    ``<name>_weight`` are those of the losses, ``score_<name>`` those of the score's terms.
    """

    image_size: ImageSize = setting(256, "side of the images in pixels, ours")
    channels: Channels = 1
    width: int = setting(32, "ours: channels of the first block, doubled up to 16 times", ge=1)
    latent_dim: int = setting(128, "ours: length of the code, or of the code at each place", ge=1)
    latent_side: int = setting(
        1, "ours: 1 for one code per image, else a map of codes of at most this side", ge=1
    )
    norm: Norm = setting("group", "ours: a batch would mix clean, rebuilt and damaged images")
    adversarial: Adversarial = setting("non_saturating", "ours; the kind is not known")
    adversarial_weight: float = setting(1.0, "Lu et al.; 0: no image discriminator", ge=0)
    structure_weight: float = setting(1.0, "Lu et al.: 1 - SSIM of image and reconstruction", ge=0)
    centre_weight: float = setting(
        0.1, "Lu et al.: squared distance to the centre, per entry", ge=0
    )
    reconstruction_weight: float = setting(10.0, "ours: mean |x - G(E(x))|", ge=0)
    consistency_weight: float = setting(1.0, "ours: squared E(x) - E(G(E(x))), per entry", ge=0)
    restore_weight: float = setting(1.0, "ours, a pretext: mean |x - G(E(damaged x))|", ge=0)
    rotation_weight: float = setting(0.1, "ours, a pretext: cross-entropy of quarter turns", ge=0)
    latent_adversarial_weight: float = setting(0.0, "ours: codes against normal random ones", ge=0)
    prior_weight: float = setting(0.0, "ours: random z against E(G(z)), squared, per entry", ge=0)
    corruptions: tuple[Corruption, ...] = setting(
        ("intensity", "shuffle", "inner_fill", "outer_fill"), "of the restored images, ours"
    )
    corruption_probability: Share = setting(0.5, "Models Genesis, for intensities and shuffling")
    warmup_epochs: int = setting(10, "ours; without adversaries, centre and prior", ge=1)
    centre_update: Literal["fixed", "ema"] = setting("fixed", "after warm-up; Deep SVDD: fixed")
    centre_margin: float = setting(0.1, "Deep SVDD's code: no centre entry is nearer to 0", ge=0)
    spread_weight: float = setting(1.0, "ours: hinge against codes that are all alike", ge=0)
    spread_floor: float = setting(0.1, "ours: least deviation of a code's entry in a batch", gt=0)
    score_reconstruction: float = setting(
        1.0, "ours: of this term in the score, in deviations of held-out normal images", ge=0
    )
    score_structure: float = setting(1.0, "ours: as score_reconstruction", ge=0)
    score_consistency: float = setting(1.0, "ours: as score_reconstruction", ge=0)
    score_centre: float = setting(1.0, "ours: as score_reconstruction", ge=0)
    score_rotation: float = setting(
        0.0, "ours: all four quarter turns; needs rotation_weight", ge=0
    )
    map_error: Literal["reconstruction", "structure", "both"] = setting("both", "ours")
    image_score: ImageScore = setting("mean", "ours: from the error maps to the first two terms")
    top_k: TopK = 100
    quantile: Quantile = 0.99
    map_smoothing: Smoothing = setting(1, "mean filter on the error maps, its side in pixels")
    normal_margin: float | None = setting(
        None,
        "With a number: an error counts in standard deviations from the training images' mean at "
        "its place, and of it what exceeds this; for images that lie alike. As in PatchCL-AE",
        ge=0,
    )
    mask_background: bool = setting(False, "whether black pixels of the image have no error")
    learning_rate: float = setting(0.0002, "DCGAN", gt=0)
    betas: Betas = setting((0.5, 0.999), "DCGAN")
    eps: float = setting(1e-8, "Adam's own", gt=0)
    schedule: Schedule = setting("constant", "ours; of the stage after the warm-up")
    epochs: int = setting(200, "ours; after the warm-up", ge=1)
    batch_size: int = setting(16, "ours", ge=1)

    def __post_init__(self) -> None:
        half = self.image_size // 2
        require(self.latent_side <= half, self, "latent_side", "at most half of image_size")
        error = self.reconstruction_weight + self.structure_weight
        require(error > 0, self, "reconstruction_weight", "above 0 where structure_weight is 0")
        require(any(self.score_weights()), self, "score_reconstruction", "above 0 where all are 0")
        turned = self.score_rotation == 0 or self.rotation_weight > 0
        require(turned, self, "score_rotation", "0 where rotation_weight is 0")

    def score_weights(self) -> list[float]:
        """In the order of ``TERMS``."""
        return [getattr(self, f"score_{name}") for name in TERMS]


class SALAD(Method):
    """Scores an image by how badly it survives the way to a code and back, and by that code."""

    config: SALADConfig

    def __init__(self, config: SALADConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or SALADConfig()
        self.encoder = LatentEncoder(
            c.image_size, c.channels, c.width, c.latent_dim, c.latent_side, c.norm
        )
        self.decoder = LatentDecoder(self.encoder)
        size = self.encoder.latent_size
        self.rotation_head = nn.Linear(size, 4) if c.rotation_weight > 0 else None
        self.discriminator = (
            ImageDiscriminator(c.image_size, c.channels, c.width, c.norm)
            if c.adversarial_weight > 0
            else None
        )
        self.latent_discriminator = (
            LatentDiscriminator(size) if c.latent_adversarial_weight > 0 else None
        )
        self.centre = LatentCentre(size, c.centre_margin)
        self.normals = (
            NormalMaps(2, c.image_size, c.normal_margin) if c.normal_margin is not None else None
        )
        self.normal_terms = NormalTerms(len(TERMS))
        self.normal_errors = NormalTerms(2)
        self._batch: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def tunes(self) -> bool:
        """Always: the score's terms are measured on held-out images."""
        return True

    def stages(self) -> Iterator[Stage]:
        """A warm-up that finds the centre; then the discriminators move first on each batch."""
        c = self.config
        how = adam(c.learning_rate, c.betas, c.eps), schedule(c.schedule)
        translators = parameters_of(self.encoder, self.decoder, self.rotation_head)
        warmup = Update("warm-up", translators, self.warmup_loss, how[0])
        yield Stage("warm-up", (warmup,), epochs=c.warmup_epochs, batch_size=c.batch_size)
        updates = [Update("generator", translators, self.generator_loss, *how)]
        judges = parameters_of(self.discriminator, self.latent_discriminator)
        if judges():
            updates.insert(0, Update("discriminator", judges, self.discriminator_loss, *how))
        yield Stage("translate", tuple(updates), epochs=c.epochs, batch_size=c.batch_size)

    def discriminator_loss(self, images: Tensor) -> Tensor:
        """Images against reconstructions, and random codes against codes; none gets a gradient."""
        c = self.config
        latent, reconstruction = (part.detach() for part in self._translate(images))
        loss = latent.new_zeros(())
        if self.discriminator is not None:
            real, fake = self.discriminator(images), self.discriminator(reconstruction)
            loss = loss + discriminator_loss(c.adversarial, real, fake)
        if self.latent_discriminator is not None:
            real = self.latent_discriminator(torch.randn_like(latent))
            fake = self.latent_discriminator(latent)
            loss = loss + discriminator_loss(c.adversarial, real, fake)
        return loss

    def warmup_loss(self, images: Tensor) -> Tensor:
        """What is known without a centre; the centre follows the codes meanwhile."""
        return self._weighted(images, warm=False)

    def generator_loss(self, images: Tensor) -> Tensor:
        """All terms, each with its weight."""
        return self._weighted(images, warm=True)

    def losses(self, images: Tensor) -> dict[str, Callable[[], Tensor]]:
        """Each term of the generator's loss by name, still to be computed; scalars, unweighted."""
        c = self.config
        latent, reconstruction = self._translate(images)
        return {
            "adversarial": lambda: _fool(self.discriminator, c.adversarial, reconstruction),
            "latent_adversarial": lambda: _fool(self.latent_discriminator, c.adversarial, latent),
            "reconstruction": lambda: F.l1_loss(reconstruction, images),
            "structure": lambda: 1 - ssim(images, reconstruction, data_range=DATA_RANGE),
            "consistency": lambda: F.mse_loss(self.encoder(reconstruction).float(), latent),
            "centre": lambda: (latent - self.centre()).square().mean(),
            "prior": lambda: self._prior_loss(latent),
            "restore": lambda: self._restore_loss(images),
            "rotation": lambda: self._rotation_loss(images),
            "spread": lambda: spread_loss(latent, c.spread_floor),
        }

    @torch.no_grad()
    def finish(self, train_normal: Iterable[Tensor], validation_normal: Iterable[Tensor]) -> None:
        """Measure each term of score and map on held-out normal images; look for a collapse.

        With fewer than two held-out images the training images stand in for them.

        Warns:
            UserWarning: all images are rebuilt as nearly the same picture, or a term of the score
                does not vary over the held-out images.
        """
        self.eval()
        if self.normals is not None:
            window = self.config.map_smoothing
            self.normals.fit(
                smooth(self._raw_errors(images, self._there_and_back(images)[1]), window)
                for images in train_normal
            )
        held_out = validation_normal
        if sum(len(images) for images in held_out) < 2:
            held_out = train_normal
        self.normal_errors.fit(
            self._errors_and_terms(images)[0].movedim(1, -1).flatten(0, -2) for images in held_out
        )
        constant = self.normal_terms.fit(self._errors_and_terms(images)[1] for images in held_out)
        self._warn_of_collapse(train_normal, constant)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """The score is a weighted sum of normalised terms, the map of scaled errors."""
        c = self.config
        errors, terms = self._errors_and_terms(images)
        scores = (self.normal_terms(terms) * terms.new_tensor(c.score_weights())).sum(dim=1)
        wanted = {"reconstruction": [1.0, 0.0], "structure": [0.0, 1.0], "both": [1.0, 1.0]}
        # Not less its mean, as in the score: black pixels and perfect ones stay 0.
        weights = self.normal_errors.gain * errors.new_tensor(wanted[c.map_error])
        return Prediction(scores, (errors * weights[:, None, None]).sum(dim=1, keepdim=True))

    @torch.no_grad()
    def terms(self, images: Tensor) -> dict[str, Tensor]:
        """The score's terms by name, each ``(B)`` and before it is normalised."""
        terms = self._errors_and_terms(images)[1]
        return dict(zip(TERMS, terms.unbind(dim=1), strict=True))

    def _weighted(self, images: Tensor, *, warm: bool) -> Tensor:
        losses = self.losses(images)
        assert self._batch is not None
        latent, self._batch = self._batch[1], None
        if not warm or self.config.centre_update == "ema":
            self.centre.follow(latent.detach())
        total = latent.new_zeros(())
        for name, loss in losses.items():
            weight: float = getattr(self.config, f"{name}_weight")
            if weight > 0 and (warm or name not in AFTER_WARMUP):
                total = total + weight * loss()
        return total

    def _translate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Codes ``(B, D)`` and reconstructions of images, float32.

        Both updates of one batch share them: the discriminators' step leaves encoder and decoder
        as they were.
        """
        if self._batch is None or self._batch[0] is not images:
            latent = self.encoder(images).float()
            self._batch = images, latent, self.decoder(latent).float()
        return self._batch[1:]

    def _restore_loss(self, images: Tensor) -> Tensor:
        c = self.config
        damaged = corrupt(images, c.corruptions, c.corruption_probability)
        return F.l1_loss(self.decoder(self.encoder(damaged)).float(), images)

    def _rotation_loss(self, images: Tensor) -> Tensor:
        """Each image turned by a random quarter turn, which its code should tell."""
        turns = torch.randint(4, (len(images),), device=images.device)
        turned = quarter_turns(images)[turns, torch.arange(len(images), device=images.device)]
        return F.cross_entropy(self._rotation_logits(turned), turns)

    def _rotation_logits(self, images: Tensor) -> Tensor:
        assert self.rotation_head is not None
        logits: Tensor = self.rotation_head(self.encoder(images))
        return logits.float()

    def _prior_loss(self, latent: Tensor) -> Tensor:
        drawn = torch.randn_like(latent)
        return F.mse_loss(self.encoder(self.decoder(drawn)).float(), drawn)

    def _there_and_back(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and reconstructions."""
        latent = self.encoder(images)
        return latent, self.decoder(latent)

    def _raw_errors(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Absolute error and ``1 - SSIM`` of each pixel: float32 ``(B, 2, H, W)``."""
        similar = ssim(
            images, reconstruction, data_range=DATA_RANGE, padding="same", reduction="none"
        )
        parts = [(images - reconstruction).abs(), 1 - similar]
        return torch.cat([part.float().mean(dim=1, keepdim=True) for part in parts], dim=1)

    def _errors_and_terms(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Error maps ``(B, 2, H, W)`` and the terms of the score ``(B, 5)``, not normalised."""
        latent, reconstruction = self._there_and_back(images)
        errors = self._raw_errors(images, reconstruction)
        errors = finish_maps(errors, images, self.config, self.normals)
        terms = [score_images(part, self.config) for part in (errors[:, :1], errors[:, 1:])]
        terms.append((self.encoder(reconstruction) - latent).square().mean(dim=1))
        terms.append((latent - self.centre()).square().mean(dim=1))
        terms.append(self._rotation_error(images))
        return errors, torch.stack([term.float() for term in terms], dim=1)

    def _rotation_error(self, images: Tensor) -> Tensor:
        """Mean cross-entropy ``(B)`` of all four quarter turns; 0 where it has no weight."""
        if self.config.score_rotation == 0:
            return images.new_zeros(len(images))
        labels = torch.arange(4, device=images.device)
        errors = [
            F.cross_entropy(
                self._rotation_logits(turned), label.expand(len(images)), reduction="none"
            )
            for label, turned in zip(labels, quarter_turns(images), strict=True)
        ]
        return torch.stack(errors).mean(dim=0)

    def _warn_of_collapse(self, train_normal: Iterable[Tensor], constant: Tensor) -> None:
        share = variation_kept((x, self._there_and_back(x)[1]) for x in train_normal)
        if share < LEAST_VARIATION:
            warnings.warn(
                f"salad has collapsed: its reconstructions vary {share:.1%} as much as the images, "
                "so every image becomes the same picture; a lower centre_weight, a higher "
                "reconstruction_weight or spread_weight, or more epochs may help",
                stacklevel=2,
            )
        same = [
            name
            for name, weight, flat in zip(TERMS, self.config.score_weights(), constant, strict=True)
            if weight > 0 and flat
        ]
        if same:
            warnings.warn(
                f"salad's {' and '.join(same)} is the same for all held-out normal images; it "
                "counts in its own unit",
                stacklevel=2,
            )


def _fool(net: nn.Module | None, kind: Adversarial, fake: Tensor) -> Tensor:
    assert net is not None
    return generator_loss(kind, net(fake))
