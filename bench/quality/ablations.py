"""The papers' ablations on the simulated sets: does each come out in the published direction?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.quality.plan import Fit, Variant
from bench.quality.pooled import Pooled, difference
from bench.quality.simulated import SETS

Record = dict[str, Any]


@dataclass(frozen=True)
class Ablation:
    """Variants of a method from the one that should be worst to the one that should be best."""

    claim: str
    set: str
    source: str
    """Where it is published, and with which figures."""
    variants: tuple[Variant, ...]
    steps: tuple[tuple[int, int], ...] = ((0, 1),)
    """Which variant must lie below which; each is one line of the table."""

    def refusal(self) -> str | None:
        """Why it cannot be run: a method or setting that is not there."""
        reasons = (Fit(SETS[self.set], 0, variant).refusal() for variant in self.variants)
        return next((reason for reason in reasons if reason is not None), None)


def _patchcl(label: str, **settings: Any) -> Variant:
    return Variant("patchcl-ae", {"score": "patch", **settings}, label=label)


def _ddad(score: str, label: str, share: float | None = None) -> Variant:
    as_published = {"image_score": "mean", "refinement_error": False}
    return Variant("ddad", {"score": score, **as_published}, share=share, label=label)


ABLATIONS = (
    Ablation(
        "contrastive patch loss above cosine-only",
        "brain",
        "PatchCL-AE, Table 8: 0.992 against 0.947 on brain MRI",
        (_patchcl("cosine only", patch_loss="cosine"), _patchcl("contrastive")),
    ),
    Ablation(
        "patch score above pixel score",
        "brain",
        "PatchCL-AE, Table 7: 0.992 against 0.966 on brain MRI",
        (_patchcl("pixel score", score="pixel"), _patchcl("patch score")),
    ),
    Ablation(
        "refinement above inter-discrepancy above reconstruction",
        "chest",
        "DDAD-ASR, figures of its repository: 0.894, 0.813, 0.668 on RSNA",
        (
            _ddad("A_rec", "reconstruction"),
            _ddad("A_inter", "inter"),
            _ddad("R_dual", "refined"),
        ),
        ((0, 1), (1, 2)),
    ),
    Ablation(
        "inter-discrepancy grows with the share of anomalies in the unlabeled pool",
        "chest",
        "DDAD, Fig. Ablation_AR of its repository: 0.703, 0.782 (0.2), 0.815 (0.6), 0.822 (1.0)",
        (
            _ddad("A_inter", "0 % abnormal", 0.0),
            _ddad("A_inter", "30 % abnormal", 0.3),
            _ddad("A_inter", "60 % abnormal"),  # the set as it is
            _ddad("A_inter", "100 % abnormal", 1.0),
        ),
        ((0, 1), (1, 2), (2, 3), (0, 3)),
    ),
    Ablation(
        "latent of contrasting above latent of an autoencoder",
        "brain",
        "CRADL, abstract: contrastive representations beat generative ones",
        (
            Variant("cradl", {"pretext": "reconstruction"}, label="autoencoder's latent"),
            Variant("cradl", {"pretext": "contrastive"}, label="contrastive latent"),
        ),
    ),
    Ablation(
        "AnatPaste above CutPaste",
        "chest",
        "AnatPaste, ROC figure of its repository: 0.91, 0.76, 0.81 against 0.77, 0.59, 0.69 "
        "(read off, +-0.03; which CutPaste is not said)",
        (
            Variant("anatpaste", {"augmentation": "cutpaste"}, label="CutPaste"),
            Variant("anatpaste", {"augmentation": "cutpaste-3way"}, label="CutPaste 3-way"),
            Variant("anatpaste", {"augmentation": "anatpaste"}, label="AnatPaste"),
        ),
        ((0, 2), (1, 2)),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """One line: a variant against another one."""

    ablation: Ablation
    better: Variant
    worse: Variant
    found: Pooled | None = None
    """Image AUROC of the first minus that of the second."""
    reason: str = ""
    """Why there is none."""
    seeds: tuple[int, ...] = ()
    """Those that both variants have records of."""
    stale: bool = False
    """Whether a record is of earlier code."""

    @property
    def verdict(self) -> str:
        """``as published`` only where the whole interval is above 0."""
        if self.found is None:
            return f"not run: {self.reason}"
        if self.found.low > 0:
            said = "as published"
        else:
            said = "not: the other way round" if self.found.high < 0 else "not: not told apart"
        return said + (" (stale)" if self.stale else "")


def ablation_fits(seeds: int, sets: Sequence[str], **options: Any) -> list[Fit]:
    """The fits of all ablations that can be run on these sets, each once."""
    fits = {
        fit.key: fit
        for ablation in ABLATIONS
        if ablation.set in sets and ablation.refusal() is None
        for fit in fits_of(ablation, seeds, **options)
    }
    return list(fits.values())


def fits_of(ablation: Ablation, seeds: int, **options: Any) -> list[Fit]:
    """The fits of one ablation, seed by seed."""
    return [
        Fit(SETS[ablation.set], seed, variant, **options)
        for seed in range(seeds)
        for variant in ablation.variants
    ]


def outcomes(by_key: Mapping[str, Record], seeds: int, **options: Any) -> list[Outcome]:
    """What the records say of each claim; the seeds that both variants have are used.

    Args:
        by_key: a record for the key of a fit, with ``stale`` where it is of earlier code.
        seeds: how many, from 0.
        **options: of each ``Fit``.
    """
    lines = []
    for ablation in ABLATIONS:
        for low, high in ablation.steps:
            worse, better = ablation.variants[low], ablation.variants[high]
            lines.append(_outcome(ablation, better, worse, by_key, seeds, options))
    return lines


def _outcome(
    ablation: Ablation,
    better: Variant,
    worse: Variant,
    by_key: Mapping[str, Record],
    seeds: int,
    options: dict[str, Any],
) -> Outcome:
    if reason := ablation.refusal():
        return Outcome(ablation, better, worse, reason=reason)
    pairs: dict[int, list[Record]] = {}
    for seed in range(seeds):
        keys = [
            Fit(SETS[ablation.set], seed, variant, **options).key for variant in (better, worse)
        ]
        if all(key in by_key for key in keys):
            pairs[seed] = [by_key[key] for key in keys]
    if not pairs:
        return Outcome(ablation, better, worse, reason="no records")
    found = difference([pair[0] for pair in pairs.values()], [pair[1] for pair in pairs.values()])
    stale = any(record.get("stale") for pair in pairs.values() for record in pair)
    return Outcome(ablation, better, worse, found, seeds=tuple(pairs), stale=stale)
