"""Settings of SALAD, and the names of its terms.

Source: :mod:`medad_fast.methods.salad`, which says what is known of the paper; it could not be
read, so every default here is ours.
"""

from __future__ import annotations

from typing import Literal

from medad_fast.methods.parts.adversarial import Adversarial
from medad_fast.methods.parts.fields import Betas, Quantile, Share, Smoothing, TopK
from medad_fast.methods.parts.optimization import Schedule
from medad_fast.methods.parts.pretexts import Corruption
from medad_fast.methods.parts.score import ImageScore
from medad_fast.nets.strided import Norm
from medad_fast.settings import Channels, ImageSize, checked, require, setting

__all__ = ["AFTER_WARMUP", "LOSSES", "TERMS", "SALADConfig"]

TERMS = ("reconstruction", "structure", "consistency", "centre", "rotation")
"""Of the score; their weights are the fields ``score_<name>``."""
AFTER_WARMUP = ("adversarial", "latent_adversarial", "centre", "prior")
"""Losses that begin once there is a centre."""
LOSSES = (
    *AFTER_WARMUP,
    "reconstruction",
    "structure",
    "consistency",
    "restore",
    "rotation",
    "spread",
)
"""Of encoder and decoder; their weights are the fields ``<name>_weight``."""


@checked
class SALADConfig:
    """Settings of :class:`~medad_fast.methods.salad.SALAD`; of the paper's, none is known.

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
