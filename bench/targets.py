"""What every op must reach on two CPU cores: the one place where targets stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Target:
    """How many times as fast as another candidate "fused" must be at a point, at least.

    Attributes:
        at_least: the ratio of minima; with ``of="memory"`` the ratio of peak extra memory.
        by_low: whether the lower end of the interval must reach it, not only the ratio.
        in_words: the point, where its name does not say what it is.
    """

    op: str
    point: str
    against: str
    at_least: float
    of: Literal["time", "memory"] = "time"
    by_low: bool = False
    in_words: str = ""

    @property
    def size(self) -> str:
        """The point, for people."""
        return self.in_words or self.point


TARGETS = (
    Target("ssim", "16x1x256x256", "pytorch-msssim", 100),
    Target("ssim", "16x1x256x256", "pytorch-msssim compiled", 25),
    Target("ensemble_discrepancy", "K=3+3, 64x1x64x64", "eager", 100),
    Target("ensemble_discrepancy", "K=3+3, 64x1x64x64", "unrolled", 3),
    Target("ensemble_discrepancy", "K=3+3, 64x1x64x64", "compiled", 0.95),
    Target("ensemble_discrepancy", "K=3+3, 16x1x256x256", "eager", 100),
    Target("ensemble_discrepancy", "K=3+3, 16x1x256x256", "unrolled", 4.5),
    Target("ensemble_discrepancy", "K=3+3, 16x1x256x256", "compiled", 0.95),
    Target("lung_mask", "32x256x256 reference", "scikit-image", 20),
    Target("anatomy_paste", "one sample with its mask", "published", 15),
    Target("anatomy_paste", "32x1x256x256", "loop", 3),
    Target("anatomy_paste", "32x1x256x256", "compiled", 5),
    # At most 1 % of a training step's time.
    Target("anatpaste_step", "8x1x256x256", "training step", 100),
    Target("nt_xent_loss", "2x4096x128", "eager", 1.2),
    Target("nt_xent_loss", "2x4096x128", "eager", 20, of="memory"),
    Target("smooth_saliency", "64x1x128x128", "eager", 20),
    Target("patch_nce_loss", "16x256x256 query", "cut eager", 1.7, by_low=True),
    Target("patch_nce_loss", "16x256x256 both", "lean eager", 1.15, by_low=True),
    Target("patch_discrepancy", "encoder", "eager", 20),
    Target("patch_discrepancy", "encoder", "compiled", 3.5),
    Target("patch_discrepancy", "PatchCL-AE heads", "eager", 20, of="memory"),
    Target("ddad_members", "K=3, 64x1x64x64", "alone", 0.91),  # at most 1.1 of K runs
)


@dataclass(frozen=True)
class Verdict:
    """What a run says of a target; no value where it was not measured."""

    target: Target
    value: float | None = None
    low: float | None = None  # an interval of ratios of time; None for memory
    high: float | None = None
    refused: str | None = None

    @property
    def word(self) -> str:
        """``met``, ``MISSED``, ``refused`` or ``not measured``."""
        if self.value is None:
            return "not measured"
        if self.refused:
            return "refused"
        judged = self.low if self.target.by_low and self.low is not None else self.value
        return "met" if judged >= self.target.at_least else "MISSED"

    @property
    def sentence(self) -> str:
        """The word, with the reason of a refusal."""
        return f"refused: {self.refused}" if self.word == "refused" else self.word


def judge(records: Iterable[dict[str, Any]], targets: Iterable[Target] = TARGETS) -> list[Verdict]:
    """Each target against the records of one machine."""
    found = {(r["op"], r["point"], r["candidate"]): r for r in records}
    return [_verdict(target, found) for target in targets]


def _verdict(target: Target, found: dict[tuple[str, str, str], dict[str, Any]]) -> Verdict:
    against = found.get((target.op, target.point, target.against))
    fused = found.get((target.op, target.point, "fused"))
    if against is None or fused is None:
        return Verdict(target)
    if target.of == "time":
        low, high = against["ratio_low"], against["ratio_high"]
        return Verdict(target, against["ratio"], low, high, against["ratio_refused"])
    if against["extra_mib"] is None or fused["extra_mib"] is None:
        return Verdict(target)
    # What a page or two of the interpreter's own would decide is no figure.
    return Verdict(target, against["extra_mib"] / max(fused["extra_mib"], 0.1))
