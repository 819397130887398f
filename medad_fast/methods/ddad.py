"""DDAD: how far two ensembles of autoencoders disagree, and a network that refines their maps.

Source: Cai, Chen, Yang, Zhou, Cheng, "Dual-distribution discrepancy with self-supervised refinement
for anomaly detection in medical images", Medical Image Analysis 86 (2023) 102794; "code" below is
the one that its authors published (DDAD-ASR). Only abstracts and the code could be read, and the
code decides. The name is that of their MICCAI 2022 paper; others have methods called DDAD too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from medad_fast.errors import InputError
from medad_fast.methods.base import Data, Method, Prediction, Stage, Update
from medad_fast.methods.parts.fields import Betas, Quantile, Smoothing, TopK
from medad_fast.methods.parts.optimization import Schedule, adam, schedule
from medad_fast.methods.parts.score import ImageScore, as_prediction
from medad_fast.nets.ensemble import Backbone, EnsembleAutoencoder, Reconstruction
from medad_fast.nets.refinement import RefinementNet, focal_loss
from medad_fast.ops import AnatomyPasteParams, anatomy_paste, ensemble_discrepancy
from medad_fast.ops.ensemble_discrepancy import EnsembleDiscrepancy
from medad_fast.settings import Channels, ImageSize, Rule, checked, require, setting

Score = Literal["R_dual", "R_intra", "A_inter", "A_intra", "A_rec"]

WITHOUT_UNLABELED: dict[Score, Score] = {"R_dual": "R_intra", "A_inter": "A_intra"}
"""The scores that need unlabeled images, and what stands in for them."""
SPREAD: tuple[Score, ...] = ("R_dual", "R_intra", "A_intra")
"""The scores that are made of the spread between members."""

FocalGamma = Annotated[float, Rule("0, or at least 1", lambda gamma: gamma == 0 or gamma >= 1)]


@checked
class DDADConfig:
    """Settings of :class:`DDAD`; each default is the code's unless it says otherwise."""

    image_size: ImageSize = setting(64, "side of the images in pixels")
    channels: Channels = setting(1, "grey, as in the code, or colour")
    score: Score = setting(
        "R_dual",
        "What scores an image and decides which networks there are: R, refined, or A, as it is. "
        '"dual" and "inter" need unlabeled images; "rec" is the error of the members\' mean',
    )
    backbone: Backbone = setting("ae", "of the members: plain, with variances, or with a memory")
    members: int = setting(3, "autoencoders in each ensemble", ge=1)
    width: int = setting(16, "channels of the first convolution", ge=1)
    hidden_dim: int = setting(2048, "of the layers around the latent", ge=1)
    latent_dim: int = setting(
        16,
        "Sets how much a reconstruction can follow; in a comparison of the same authors (AE4AD, "
        "2024) a plain AE was best with 4 on chest radiographs and with 32 on brain MRI",
        ge=1,
    )
    memory_slots: int = setting(25, "MemAE's", ge=1)
    shrinkage: float = setting(0.0, "MemAE's; off in the code, 0.0025 in their MedIAnomaly", ge=0)
    entropy_weight: float = setting(2e-4, "MemAE's", ge=0)
    learning_rate: float = setting(5e-4, "of the ensembles", gt=0)
    betas: Betas = setting((0.5, 0.999), "of the refinement too")
    eps: float = setting(1e-8, "torch's, of the refinement too", gt=0)
    schedule: Schedule = setting("constant", "of the refinement too")
    epochs: int = setting(250, "of the ensembles", ge=1)
    batch_size: int = setting(64, "of the ensembles; batch norm needs two images", ge=2)
    refinement_error: bool = setting(
        False,
        "Departs when true: the refinement sees the root of A_rec too. Small or fine lesions, "
        "which the ensembles agree on, show there only",
    )
    refinement_width: int = setting(128, "channels of its first block", ge=1)
    refinement_learning_rate: float = setting(1e-4, "of its own optimiser", gt=0)
    refinement_weight_decay: float = setting(1e-4, "of its own optimiser", ge=0)
    refinement_epochs: int = setting(100, "of its own stage, after the ensembles", ge=1)
    refinement_batch_size: int = setting(8, "of its own stage", ge=2)
    focal_gamma: FocalGamma = setting(2.0, "of the refinement's focal loss")
    focal_epsilon: float = setting(1e-5, "labels are clamped this far from 0 and 1", gt=0, lt=0.5)
    image_score: ImageScore = setting("mean", "what of the map an image's score is")
    top_k: TopK = setting(100, 'pixels, for image_score "topk"; ours')
    quantile: Quantile = setting(0.99, 'of the map, for image_score "quantile"; ours')
    map_smoothing: Smoothing = setting(1, "Departs above 1: mean filter on the map, side in pixels")
    mask_background: bool = setting(False, "Departs when true: black pixels of the image score 0")

    def __post_init__(self) -> None:
        enough = self.members >= 2 or self.score not in SPREAD
        require(enough, self, "members", f"at least 2 for {self.score}, the spread between them")

    @property
    def needs_unlabeled(self) -> bool:
        """Whether there is an ensemble for unlabeled images."""
        return self.score in WITHOUT_UNLABELED


class DDAD(Method):
    """Scores a pixel by how far reconstructions of it differ, within and between two ensembles.

    The normative ensemble (NDM, "b" in the code) learns from normal images, the unknown one (UDM,
    "a") from unlabeled images too, taken as normal. Where members disagree (intra-discrepancy), or
    the ensembles (inter-discrepancy), is what few normal images show.
    """

    config: DDADConfig

    def __init__(self, config: DDADConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or DDADConfig()
        self.normal = self._ensemble()
        self.unknown = self._ensemble() if c.needs_unlabeled else None
        self.refinement = self._refinement()

    @property
    def uses_unlabeled(self) -> bool:
        """Whether the score compares with an ensemble that learns from them."""
        return self.config.needs_unlabeled

    def begin(self, *, unlabeled: bool) -> None:
        """Without unlabeled images: do without the unknown ensemble, in ``config.score`` too."""
        c = self.config
        if unlabeled or not c.needs_unlabeled:
            return
        instead = WITHOUT_UNLABELED[c.score]
        warnings.warn(
            f"there are no unlabeled images, which score {c.score} compares with: DDAD trains on "
            f"normal images only and scores {instead}",
            stacklevel=2,
        )
        self.config = replace(c, score=instead)
        self.unknown = None
        refinement = self._refinement()
        self.refinement = refinement.to(self.device) if refinement else None

    def stages(self) -> Iterator[Stage]:
        """The ensembles, all members of one together, then the refinement on frozen ensembles."""
        yield self._ensemble_stage("normal", "normal", self.normal)
        if self.unknown is not None:
            yield self._ensemble_stage("unknown", "normal+unlabeled", self.unknown)
        if self.refinement is not None:
            c, decay = self.config, self.config.refinement_weight_decay
            update = Update(
                "refinement",
                self.refinement.parameters,
                self.refinement_loss,
                adam(c.refinement_learning_rate, c.betas, c.eps, weight_decay=decay, fused=True),
                schedule(c.schedule),
            )
            yield Stage(
                "refinement",
                (update,),
                epochs=c.refinement_epochs,
                batch_size=c.refinement_batch_size,
                drop_last=True,
            )

    def _ensemble_stage(self, name: str, data: Data, ensemble: EnsembleAutoencoder) -> Stage:
        c = self.config
        update = Update(
            name,
            ensemble.parameters,
            partial(self.reconstruction_loss, ensemble),
            adam(c.learning_rate, c.betas, c.eps, fused=True),
            schedule(c.schedule),
        )
        return Stage(
            name, (update,), data, c.epochs, c.batch_size, orders=c.members, drop_last=True
        )

    def reconstruction_loss(self, ensemble: EnsembleAutoencoder, batches: Tensor) -> Tensor:
        """Batches ``(K, B, C, H, W)``, one for each member, to the sum of the members' losses.

        The sum, not the mean: no member's gradient then depends on how many there are.
        """
        c = self.config
        _require_two(batches.shape[1])
        rebuilt: Reconstruction = ensemble(batches)
        error = (rebuilt.images - batches).square()  # in the batches' type, also under autocast
        if rebuilt.log_variance is not None:
            log_variance = rebuilt.log_variance.to(error.dtype)
            error = torch.exp(-log_variance) * error + log_variance
        loss = error.flatten(1).mean(1).sum()
        if rebuilt.attention is not None:
            attention = rebuilt.attention.to(error.dtype)
            entropy = -(attention * torch.log(attention + 1e-12)).sum(2)
            loss = loss + c.entropy_weight * entropy.mean(1).sum()
        return loss

    def refinement_loss(self, images: Tensor) -> Tensor:
        """Find patches of other images that were pasted into about half of ``(B, C, H, W)``.

        Departs: patches come from images of the batch, not of the whole set, which the random order
        of the images makes as likely for each.
        """
        c = self.config
        _require_two(len(images))
        assert self.refinement is not None
        sides = (images.shape[-2], images.shape[-1])
        params = AnatomyPasteParams.sample(len(images), sides, kind="foreign_patch")
        pasted = anatomy_paste(images, None, params.to(images.device))
        logits = self.refinement(self._refined_maps(pasted.images))
        return focal_loss(logits, pasted.gate > 0, gamma=c.focal_gamma, epsilon=c.focal_epsilon)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """The map that ``score`` names; colour images' channels count equally in it."""
        c = self.config
        if self.refinement is not None:
            maps = self.refinement.probability(self._refined_maps(images))
        else:
            inter, intra, reconstruction = self.discrepancies(images)
            assert reconstruction is not None
            maps = {"A_inter": inter, "A_intra": intra, "A_rec": reconstruction}[c.score]
        return as_prediction(maps, images, c)

    @torch.no_grad()
    def discrepancies(self, images: Tensor) -> EnsembleDiscrepancy:
        """A_inter, A_intra and A_rec of images ``(B, C, H, W)``, ``(B, 1, H, W)`` each.

        Relative to the deviation that AE-U's normative members predict. The log-variances of the
        unknown ensemble are not used, as in the code. A_inter is 0 without an unknown ensemble.
        """
        # The maps are small differences of large numbers, which bfloat16 would drown.
        with torch.autocast(images.device.type, enabled=False):
            normal = self.normal.reconstruct(images)
            unknown = normal if self.unknown is None else self.unknown.reconstruct(images)
            found = ensemble_discrepancy(
                unknown.images, normal.images, image=images, log_variance=normal.log_variance
            )
        assert found.reconstruction is not None
        inter, intra, reconstruction = (
            each.mean(dim=1, keepdim=True)
            for each in (found.inter, found.intra, found.reconstruction)
        )
        return EnsembleDiscrepancy(inter, intra, reconstruction)

    def _refined_maps(self, images: Tensor) -> Tensor:
        """What the refinement sees: inter- and intra-discrepancy, or the latter alone."""
        inter, intra, reconstruction = self.discrepancies(images)
        parts = [intra] if self.unknown is None else [inter, intra]
        if self.config.refinement_error:
            assert reconstruction is not None
            parts.append(reconstruction.sqrt())  # on the others' scale
        return torch.cat(parts, dim=1)

    def _ensemble(self) -> EnsembleAutoencoder:
        c = self.config
        return EnsembleAutoencoder(
            c.members,
            c.image_size,
            c.channels,
            backbone=c.backbone,
            width=c.width,
            hidden_dim=c.hidden_dim,
            latent_dim=c.latent_dim,
            memory_slots=c.memory_slots,
            shrinkage=c.shrinkage,
        )

    def _refinement(self) -> RefinementNet | None:
        c = self.config
        if not c.score.startswith("R"):
            return None
        maps = (2 if c.needs_unlabeled else 1) + c.refinement_error
        return RefinementNet(maps, c.refinement_width)


def _require_two(images: int) -> None:
    if images < 2:
        raise InputError(f"DDAD needs at least 2 images in a training batch, got {images}")
