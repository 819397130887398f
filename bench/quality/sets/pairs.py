"""Simulated pictures in pairs: each abnormal one beside its own normal one, and the folder layout.

A subject is drawn once; what makes it abnormal is then put into it. Both pictures share anatomy,
position, exposure, noise and storage, so that nothing but the abnormality tells them apart: not
the brightness of a set, not the size of a file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.demo.streams import PARTS, Part
from medad_fast.errors import DeviceError, InputError
from medad_fast.files import atomic_write, write_text

Progress = Callable[[int, int], None]
"""Called with the number of subjects written and of all subjects."""


@dataclass(frozen=True)
class SetPlan:
    """How large a simulated set is; the same plan writes the same files.

    Raises:
        InputError: a count, the share or the size cannot be.
    """

    seed: int = 0
    train: int = 200
    """Normal subjects to fit on."""
    validation: int = 40
    """Normal subjects for thresholds."""
    test: int = 100
    """Subjects to score, each with normal and abnormal pictures."""
    unlabeled: int = 150
    """Further subjects, for methods that learn from unlabeled pictures too."""
    unlabeled_abnormal: float = 0.6
    """Share of the unlabeled pictures that are abnormal, 0.6 as in the DDAD paper. Sets that differ
    in nothing else have the same subjects there; those abnormal at a smaller share are so at a
    larger one too."""
    size: int = 128
    """Rows and columns of a picture, 32 to 512."""

    def __post_init__(self) -> None:
        if min(self.subjects.values()) < 0 or not 0 <= self.unlabeled_abnormal <= 1:
            raise InputError(
                "a simulation needs counts from 0 and a share of abnormal images from 0 to 1, got "
                f"{self.subjects}, unlabeled_abnormal={self.unlabeled_abnormal}"
            )
        # Smaller pictures show nothing, and what is drawn has no detail for larger ones.
        if not 32 <= self.size <= 512:
            raise InputError(f"size must be from 32 to 512 pixels, got {self.size}")

    @property
    def subjects(self) -> dict[Part, int]:
        """How many there are in each split."""
        return {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
            "unlabeled": self.unlabeled,
        }


@dataclass(frozen=True, eq=False)
class SimulatedPair:
    """One picture of a simulated subject, without and with an abnormality."""

    name: str
    """File name without suffix; it begins with the patient, ``sub-...``."""
    normal: NDArray[Any]
    """``(H, W)`` uint8 or uint16, or ``(H, W, 3)`` uint8 for colour."""
    abnormal: NDArray[Any]
    """The same subject with its abnormality; ``normal`` itself where none was asked for."""
    mask: NDArray[np.bool_]
    """``(H, W)``, where it is abnormal."""
    kind: str = ""
    detail: dict[str, float] | None = None
    """What was drawn of the abnormality, by name with unit."""


Draw = Callable[[Part, int, bool], Sequence[SimulatedPair]]
"""Part, number within the split and whether with an abnormality, to pairs of one subject."""


def kind_of(kinds: Sequence[str], number: int) -> str:
    """The kinds take turns, so that each run of as many subjects as kinds has each once."""
    return kinds[number % len(kinds)]


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, int], sigma: float
) -> NDArray[np.float32]:
    """Gaussian noise smoothed over ``sigma`` pixels, with zero mean and unit standard deviation.

    Large fields are drawn on a coarser grid and enlarged: they hold no detail below ``sigma``.
    """
    from scipy.ndimage import gaussian_filter, zoom

    step = max(1, int(sigma // 4))
    coarse = tuple(-(-side // step) + 2 for side in shape)
    noise = rng.standard_normal(coarse, dtype=np.float32)
    smooth = gaussian_filter(noise, sigma / step, mode="reflect", truncate=3.0)
    if step > 1:
        smooth = zoom(smooth, step, order=1)
    cut = smooth[: shape[0], : shape[1]]
    field: NDArray[np.float32] = (cut - cut.mean()) / max(float(cut.std()), 1e-6)
    return field


def write_pairs(
    out: str | Path,
    draw: Draw,
    plan: SetPlan,
    *,
    about: str,
    facts: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a data set in the folder layout that every verb reads.

    ``train/normal``, ``train/unlabeled``, ``validation/normal``, ``test/normal``,
    ``test/abnormal`` (each of its pictures has its normal twin in ``test/normal``, and both are
    one patient's) and ``test/masks`` hold PNG files, stored without compression so that all are of
    one size. ``lesions.csv`` tells what was put into each, ``simulation.json``, written last, what
    the data are.

    Args:
        out: folder to write into; made if missing.
        draw: gives the pairs of one subject.
        plan: how many subjects of each split, and which share of the unlabeled is abnormal.
        about: what the data are, in words.
        facts: what else to record.
        progress: called after each subject.

    Returns:
        ``out``.

    Raises:
        DeviceError: the disk is full or not writable.
    """
    folder = Path(out)
    total, done = sum(plan.subjects.values()), 0
    lesions: list[tuple[str, SimulatedPair]] = []
    pool: list[SimulatedPair] = []
    for split in PARTS:
        for number in range(plan.subjects[split]):
            for pair in draw(split, number, split in ("test", "unlabeled")):
                if split == "unlabeled":
                    pool.append(pair)
                    continue
                write_picture(folder / split / "normal" / f"{pair.name}.png", pair.normal)
                if split == "test":
                    _write_abnormal(folder / "test", pair)
                    lesions.append((f"test/abnormal/{pair.name}.png", pair))
            done += 1
            if progress is not None:
                progress(done, total)
    lesions += _write_pool(folder, pool, plan)
    _write_lesions(folder / "lesions.csv", lesions)
    described = {
        "about": about,
        "seed": plan.seed,
        "unlabeled_abnormal": plan.unlabeled_abnormal,
        "subjects": plan.subjects,
        **(facts or {}),
        "size": plan.size,
    }
    write_text(folder / "simulation.json", json.dumps(described, indent=2) + "\n")
    return folder


def write_picture(path: Path, pixels: NDArray[Any]) -> None:
    """A PNG without compression, whose size tells nothing of what it shows."""
    from PIL import Image as Picture

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(pixels).save(path, format="PNG", compress_level=0)
    except OSError as error:
        raise DeviceError(f"could not write {path}: {error.strerror or error}") from error


def _write_abnormal(test: Path, pair: SimulatedPair) -> None:
    write_picture(test / "abnormal" / f"{pair.name}.png", pair.abnormal)
    write_picture(test / "masks" / f"{pair.name}.png", pair.mask.astype(np.uint8) * np.uint8(255))


def _write_pool(
    folder: Path, pool: list[SimulatedPair], plan: SetPlan
) -> Iterator[tuple[str, SimulatedPair]]:
    """The unlabeled pictures; a lot, the same for every share, says which show abnormalities."""
    rng = np.random.default_rng([plan.seed, PARTS.index("unlabeled"), 2**31])
    lot = rng.permutation(len(pool))
    abnormal = set(lot[: round(plan.unlabeled_abnormal * len(pool))].tolist())
    for place, pair in enumerate(pool):
        name = f"train/unlabeled/{pair.name}.png"
        write_picture(folder / name, pair.abnormal if place in abnormal else pair.normal)
        if place in abnormal:
            yield name, pair


def _write_lesions(path: Path, lesions: list[tuple[str, SimulatedPair]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(("file", "kind", "pixels", "detail"))
        for name, pair in lesions:
            drawn = "; ".join(f"{key} {value:.3g}" for key, value in (pair.detail or {}).items())
            rows.writerow((name, pair.kind, int(pair.mask.sum()), drawn))
