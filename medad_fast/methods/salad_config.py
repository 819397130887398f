"""Settings of SALAD, and the names of its terms.

Source: :mod:`medad_fast.methods.salad`, which says what is known of the paper; it could not be
read, so every default here is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medad_fast.methods.parts.adversarial import Adversarial
from medad_fast.methods.parts.optimization import Schedule
from medad_fast.methods.parts.pretexts import Corruption
from medad_fast.methods.parts.score import ImageScore
from medad_fast.nets.strided import Norm
from medad_fast.settings import above_zero, at_least, check_common, require, shares

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


@dataclass(frozen=True)
class SALADConfig:
    """Settings of :class:`~medad_fast.methods.salad.SALAD`; of the paper's, none is known."""

    image_size: int = 256  # ours; a multiple of 16 from 32 to 512
    channels: int = 1  # 1 grey, 3 colour
    width: int = 32  # ours: channels of the first block, doubled up to 16 times
    latent_dim: int = 128  # ours: length of the code, or of the code at each place
    latent_side: int = 1  # ours: 1 for one code per image, else a map of codes of at most this side
    norm: Norm = "group"  # ours: a batch's statistics would mix clean, rebuilt and damaged images
    adversarial: Adversarial = "non_saturating"  # ours; the kind is not known
    # Losses, as fields <name>_weight. The first three are named by the abstract or by Lu et al.
    adversarial_weight: float = 1.0  # 0 trains without an image discriminator
    structure_weight: float = 1.0  # 1 - SSIM of image and reconstruction
    centre_weight: float = 0.1  # squared distance of codes to their centre, per entry
    reconstruction_weight: float = 10.0  # ours: mean |x - G(E(x))|
    consistency_weight: float = 1.0  # ours: squared distance of E(x) and E(G(E(x))), per entry
    restore_weight: float = 1.0  # ours, as pretext: mean |x - G(E(damaged x))|
    rotation_weight: float = 0.1  # ours, as pretext: cross-entropy of the quarter turn
    latent_adversarial_weight: float = 0.0  # ours: codes against normal random numbers
    prior_weight: float = 0.0  # ours: normal random z against E(G(z)), squared, per entry
    corruptions: tuple[Corruption, ...] = ("intensity", "shuffle", "inner_fill", "outer_fill")
    corruption_probability: float = 0.5  # Models Genesis, for intensities and shuffling
    warmup_epochs: int = 10  # ours; without adversaries, centre and prior
    centre_update: Literal["fixed", "ema"] = (
        "fixed"  # ours; after the warm-up; Deep SVDD's is fixed
    )
    centre_margin: float = 0.1  # Deep SVDD's code: no entry of the centre is nearer to 0
    spread_weight: float = 1.0  # ours: hinge against codes that are all alike
    spread_floor: float = 0.1  # ours: standard deviation of a code's entry in a batch
    # Weights of the score's terms, each in standard deviations of held-out normal images.
    score_reconstruction: float = 1.0
    score_structure: float = 1.0
    score_consistency: float = 1.0
    score_centre: float = 1.0
    score_rotation: float = 0.0  # cross-entropy of all four quarter turns; needs rotation_weight
    map_error: Literal["reconstruction", "structure", "both"] = "both"  # ours
    image_score: ImageScore = "mean"  # ours: from the error maps to the first two terms
    top_k: int = 100  # pixels, for image_score "topk"
    quantile: float = 0.99  # of the map, for image_score "quantile"
    map_smoothing: int = 1  # mean filter on the error maps, an odd side in pixels
    # With a number: an error counts in standard deviations from the training images' mean at its
    # place, and of it what exceeds this; for images that lie alike. As in PatchCL-AE.
    normal_margin: float | None = None
    mask_background: bool = False  # whether black pixels of the image have no error
    learning_rate: float = 0.0002  # DCGAN
    betas: tuple[float, float] = (0.5, 0.999)  # DCGAN
    eps: float = 1e-8
    schedule: Schedule = "constant"  # ours; of the stage after the warm-up
    epochs: int = 200  # ours; after the warm-up
    batch_size: int = 16  # ours

    def __post_init__(self) -> None:
        check_common(self)
        at_least(self, 1, "latent_dim", "latent_side", "warmup_epochs")
        require(
            self.latent_side <= self.image_size // 2,
            self,
            "latent_side",
            "at most half of image_size",
        )
        weights = [f"{name}_weight" for name in LOSSES]
        at_least(self, 0, *weights, *(f"score_{name}" for name in TERMS), "centre_margin")
        require(
            self.reconstruction_weight + self.structure_weight > 0,
            self,
            "reconstruction_weight",
            "above 0 where structure_weight is 0",
        )
        shares(self, "corruption_probability")
        above_zero(self, "spread_floor")
        require(any(self.score_weights()), self, "score_reconstruction", "above 0 where all are 0")
        require(
            self.score_rotation == 0 or self.rotation_weight > 0,
            self,
            "score_rotation",
            "0 where rotation_weight is 0",
        )

    def score_weights(self) -> list[float]:
        """In the order of ``TERMS``."""
        return [getattr(self, f"score_{name}") for name in TERMS]
