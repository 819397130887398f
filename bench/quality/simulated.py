"""The simulated sets of the quality benchmark, built once and kept."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.quality.sets import brain_slices, chest, fundus, oct
from bench.quality.sets.pairs import SetPlan
from bench.quality.source import Tree


@dataclass(frozen=True)
class QualitySet:
    """One set, and which recipe its methods are fitted by."""

    name: str
    title: str
    """For tables; says that the set is synthetic."""
    simulate: Callable[[Path, SetPlan], Path]
    plan: SetPlan
    """How large it is."""
    own: tuple[str, ...]
    """Methods whose papers are about this modality."""

    @property
    def module(self) -> str:
        """Where it is simulated, and described."""
        return self.simulate.__module__

    @property
    def recipe(self) -> str:
        """Name of the packaged recipe."""
        return f"quality-{self.name}"

    def source(self) -> str:
        """Digest of the code that draws it."""
        return Tree().digest([self.module])

    def build(
        self,
        work: Path,
        seed: int,
        share: float | None = None,
        counts: dict[str, int] | None = None,
    ) -> Path:
        """The set's folder under ``work``, drawn now unless it is there.

        Args:
            work: folder for all sets.
            seed: of the set.
            share: of abnormal images in the unlabeled pool; the set's own by default.
            counts: subjects of some splits, for trying things.
        """
        options: dict[str, Any] = dict(counts or {})
        if share is not None:
            options["unlabeled_abnormal"] = share
        chosen = "".join(f"-{key}={value}" for key, value in sorted(options.items()))
        folder = work / f"{self.name}-{seed}{chosen}-{self.source()}"
        if not (folder / "simulation.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            self.simulate(folder, replace(self.plan, seed=seed, **options))
        return folder


SETS = {
    each.name: each
    for each in (
        QualitySet(
            "brain",
            "Brain MRI slices (synthetic lesions, one anatomy)",
            brain_slices.simulate_brain_slices,
            brain_slices.PLAN,
            ("patchcl-ae", "cradl"),
        ),
        QualitySet(
            "chest",
            "Chest radiographs (synthetic, projected from one CT)",
            chest.simulate_chest,
            chest.PLAN,
            ("ddad", "anatpaste"),
        ),
        QualitySet(
            "fundus",
            "Fundus patches (synthetic lesions, one eye)",
            fundus.simulate_fundus,
            fundus.PLAN,
            (),
        ),
        QualitySet(
            "oct",
            "Retinal OCT (computed phantom)",
            oct.simulate_oct,
            oct.PLAN,
            ("salad",),
        ),
    )
}


def content_digest(folder: Path) -> str:
    """Of all pictures of a set with their names: what a fit really saw."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.png")):
        total.update(path.relative_to(folder).as_posix().encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:16]
