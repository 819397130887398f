"""Simulated brain MRI of healthy subjects and of subjects with lesions, with exact masks.

**Subjects and lesions are simulated, all from one anatomy: the ICBM152 T1 average of 152 people,
with its grey and white matter maps.** Results on this data show that a method works and compare
methods; they say nothing about diagnostic accuracy. Source: Fonov et al., "Unbiased
average age-appropriate atlases for pediatric studies", NeuroImage 2011, as shipped in nilearn.

What is written below was fixed before any method was fitted.

**A subject** is drawn from a random stream of its own, the same for every split:

- position: rotation of sd 3 degrees about each axis, size 0.94 to 1.06 along each axis, shift of
  sd 2 mm;
- shape: smooth 3D warps of sd 3 mm (smoothed over 30 mm) and 1.3 mm (over 12 mm), ventricles
  wider or narrower by up to 18 %;
- contrast, in units of white matter: grey matter 0.60 to 0.82, fluid 0.15 to 0.40, share of the
  template's own texture 0.5 to 1.5; then a gamma of 0.85 to 1.2;
- scanner: smooth bias field of up to 15 %, Rician noise of 1 to 2 % of white matter, stored grey
  levels of 500 to 1,500 for white matter, any of the 48 storage orientations;
- slices: axial, 5 mm thick (three samples averaged), centres spread from -6 to 54 mm of the
  template's height and shifted together by up to 3 mm; 211 mm field of view;
- skull-stripped: 0 outside the brain.

**A lesion** is put into half of the test subjects; which half is drawn by lot. Its height
is drawn evenly from -2 to 52 mm, so that no slice level is favoured. A voxel belongs to the mask
where more than half of it is lesion. Diameters and grey levels (white matter is 1):

=========== ==================================================== ================ ===============
kind        shape                                                in tissue range  out of range
=========== ==================================================== ================ ===============
glioma      ball of 20-30 mm in white matter: rim of 3-4.5 mm,   rim 0.94-1.0     rim 1.3-1.5
            core near fluid, oedema of 4-8 mm (white matter
            turns grey), pushes its surroundings apart
meningioma  ball of 20-34 mm at the brain's edge, pushes the     0.94-1.02        1.25-1.5
            brain inwards
infarct     wedge from the surface, 30-42 mm deep, opening       fluid to grey    1.25-1.45
            36-54 degrees (base of 19-43 mm)                                      (haemorrhagic)
cavity      ball of 16-30 mm beneath the surface (resection)     fluid            0.02-0.08 (air)
                                                                                  and a 2 mm rim
                                                                                  of 1.2-1.4
spots       up to 12 balls of 6-11 mm in white matter, 25 mm     0.85-1.0 grey    1.3-1.5
            around the first, 10 mm or more apart
=========== ==================================================== ================ ===============

In half of the cases of each kind ("in tissue range") every voxel of the mask stays between the 2nd
and the 98th percentile of that subject's own brain voxels before the lesion: no threshold finds it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.formats.nifti import write_nifti
from medad_fast.data.geometry import affine_as_stored, geometry_of_codes
from medad_fast.demo.anatomy import Anatomy, load_anatomy
from medad_fast.demo.head import CENTRE_MM, draw_head, scan
from medad_fast.demo.lesions import Lesion, balanced_kinds, draw_lesion
from medad_fast.demo.streams import streams
from medad_fast.errors import InputError
from medad_fast.files import atomic_write, write_text

_FIELD_OF_VIEW_MM = 211.2
_LOWEST_SLICE_MM, _HIGHEST_SLICE_MM = -6.0, 54.0
_SUBSLICES_MM = (-1.7, 0.0, 1.7)

_SPLITS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
_ABOUT = (
    "Subjects and lesions are simulated from one anatomy: the ICBM152 T1 average of 152 people. "
    "Kinds, sizes and contrasts are described in the docstring of medad_fast.demo.brain."
)


@dataclass(frozen=True, eq=False)
class SimulatedSubject:
    """One simulated head, slices shown as the readers show them."""

    name: str
    """``sub-sim-XXX``, the patient."""
    pixels: NDArray[np.int16]
    """``(S, H, W)``: rows anterior to posterior, columns patient right to left."""
    mask: NDArray[np.bool_]
    """``(S, H, W)``, where more than half of a voxel is lesion."""
    healthy: NDArray[np.int16]
    """The same head before the lesion, ``(S, H, W)``; equals ``pixels`` without a lesion."""
    spacing_mm: tuple[float, float, float]
    """Between slices, rows and columns."""
    origin_mm: tuple[float, float, float]
    """Place (RAS+) of the first slice's first pixel."""
    orientation: str
    """Axis codes in which :func:`simulate_brain` stores the volume."""
    lesion: Lesion | None


def simulate_subjects(
    count: int,
    *,
    seed: int = 0,
    split: Literal["train", "validation", "test"] = "train",
    abnormal: int = 0,
    first: int = 0,
    slices: int = 8,
    size: int = 96,
) -> Iterator[SimulatedSubject]:
    """Draw subjects one by one, without writing anything.

    Args:
        count: how many subjects.
        seed: of everything; the same arguments give the same bytes.
        split: further seed, so that splits never share a subject.
        abnormal: how many of them get a lesion, chosen by lot.
        first: number in the first subject's name.
        slices: axial slices per subject.
        size: rows and columns of a slice.

    Raises:
        InputError: nilearn is not installed, or a count cannot be.
    """
    if not 0 <= abnormal <= count or slices < 1 or size < 16:
        raise InputError(
            "a simulation needs abnormal <= count, slices >= 1 and size >= 16, got "
            f"{abnormal=}, {count=}, {slices=}, {size=}"
        )
    anatomy = load_anatomy()
    lot = np.random.default_rng([seed, _SPLITS.index(split), 2**31])
    chosen = iter(balanced_kinds(abnormal))
    with_lesion = dict(zip(lot.permutation(count)[:abnormal].tolist(), chosen, strict=True))
    for i in range(count):
        subject, disease = streams(seed, split, i)
        yield draw_subject(
            f"sub-sim-{first + i:03d}", anatomy, subject, disease, with_lesion.get(i), slices, size
        )


def simulate_brain(
    out: str | Path,
    *,
    seed: int = 0,
    train: int = 24,
    validation: int = 8,
    test: int = 40,
    slices: int = 8,
    size: int = 96,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the demo data set in the folder layout that every verb reads.

    ``train/normal``, ``validation/normal``, ``test/normal``, ``test/abnormal`` (half of the test
    subjects) and ``test/masks`` (same file names) hold int16 NIfTI volumes; ``lesions.csv`` tells
    kind, size and range of each lesion and ``simulation.json`` what the data are.

    Args:
        out: folder to write into; made if missing.
        seed: of everything; the same arguments write the same files.
        train: normal subjects to fit on.
        validation: normal subjects for thresholds.
        test: subjects to score; half of them, rounded down, with a lesion.
        slices: axial slices per subject.
        size: rows and columns of a slice.
        progress: called with the number of subjects written and of all subjects.

    Returns:
        ``out``.

    Raises:
        InputError: nilearn is not installed, or a count cannot be.
        DeviceError: the disk is full or not writable.
    """
    out = Path(out)
    counts = {"train": train, "validation": validation, "test": test}
    total = sum(counts.values())
    lesions: list[tuple[str, str, bool, float, int]] = []
    done = 0
    for split in _SPLITS:
        for subject in simulate_subjects(
            counts[split],
            seed=seed,
            split=split,
            abnormal=test // 2 if split == "test" else 0,
            first=done,
            slices=slices,
            size=size,
        ):
            label = "normal" if subject.lesion is None else "abnormal"
            file = f"{subject.name}_T1w.nii.gz"
            _write_volume(out / split / label / file, subject.pixels, subject)
            if subject.lesion is not None:
                _write_volume(out / split / "masks" / file, subject.mask.astype(np.uint8), subject)
                lesion = subject.lesion
                voxels = int(subject.mask.sum())
                lesions.append(
                    (file, lesion.kind, lesion.within_tissue_range, lesion.diameter_mm, voxels)
                )
            done += 1
            if progress is not None:
                progress(done, total)
    _write_lesions(out / "lesions.csv", lesions)
    facts = {"about": _ABOUT, "seed": seed, **counts, "slices": slices, "size": size}
    write_text(out / "simulation.json", json.dumps(facts, indent=2) + "\n")
    return out


def draw_subject(
    name: str,
    anatomy: Anatomy,
    subject: np.random.Generator,
    disease: np.random.Generator,
    kind: tuple[str, bool] | None,
    slices: int,
    size: int,
) -> SimulatedSubject:
    gap_mm = (_HIGHEST_SLICE_MM - _LOWEST_SLICE_MM) / max(slices - 1, 1)
    pitch_mm = _FIELD_OF_VIEW_MM / size
    lowest_mm = _LOWEST_SLICE_MM if slices > 1 else 0.5 * (_LOWEST_SLICE_MM + _HIGHEST_SLICE_MM)
    heights = lowest_mm + gap_mm * np.arange(slices) + subject.uniform(-3, 3)
    across = (0.5 * (size - 1) - np.arange(size)) * pitch_mm
    # Rows run anterior to posterior and columns from the patient's right (+x) to the left.
    scanner_mm = np.empty((slices, len(_SUBSLICES_MM), size, size, 3))
    scanner_mm[..., 0] = CENTRE_MM[0] + across
    scanner_mm[..., 1] = CENTRE_MM[1] + across[:, None]
    scanner_mm[..., 2] = (heights[:, None] + np.array(_SUBSLICES_MM))[:, :, None, None]

    head = draw_head(subject, scanner_mm)
    orientation = _draw_orientation(subject)
    brain = anatomy.sample(anatomy.brain, head.template_mm).mean(1) > 0.5
    healthy, _ = scan(head, anatomy, brain, None)
    pixels, mask, lesion = healthy, np.zeros_like(brain), None
    # Drawn again where it falls between two slices, as it can if there are few of them.
    while kind is not None and not mask.any():
        lesion = draw_lesion(*kind, anatomy, head.contrast, disease)
        pixels, share = scan(head, anatomy, brain, lesion)
        mask = brain & (share > 0.5)
    if lesion is not None and lesion.within_tissue_range:
        low, high = np.percentile(healthy[brain], (2, 98))
        pixels = np.where(mask, pixels.clip(np.ceil(low), np.floor(high)), pixels)
    return SimulatedSubject(
        name=name,
        pixels=pixels.astype(np.int16),
        mask=mask,
        healthy=healthy.astype(np.int16),
        spacing_mm=(gap_mm, pitch_mm, pitch_mm),
        origin_mm=(float(scanner_mm[0, 0, 0, 0, 0]), float(scanner_mm[0, 0, 0, 0, 1]), heights[0]),
        orientation=orientation,
        lesion=lesion,
    )


def _draw_orientation(rng: np.random.Generator) -> str:
    pairs = ("RL", "AP", "SI")
    return "".join(pairs[axis][int(rng.integers(2))] for axis in rng.permutation(3))


def _write_volume(path: Path, slices: NDArray[Any], subject: SimulatedSubject) -> None:
    geometry = geometry_of_codes(subject.orientation)
    affine = affine_as_stored(geometry, slices.shape, subject.spacing_mm, subject.origin_mm)
    write_nifti(path, geometry.to_source(slices), affine)


def _write_lesions(path: Path, lesions: list[tuple[str, str, bool, float, int]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(("file", "kind", "within_tissue_range", "diameter_mm", "voxels"))
        rows.writerows((*each[:3], f"{each[3]:.1f}", each[4]) for each in lesions)
