"""One fit of the quality benchmark."""

from __future__ import annotations

from bench.quality.plan import Fit, Variant
from bench.quality.simulated import SETS


def fit_of(method="autoencoder", name="oct", seed=0, **options):
    variant = Variant(method, options.pop("overrides", {}), options.pop("share", None))
    return Fit(SETS[name], seed, variant, **options)
