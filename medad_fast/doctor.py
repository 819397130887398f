"""Checks of an installation and of a data set, each a small function in a list.

A finding is ``ok``, ``note`` (worth knowing) or ``wrong`` (it would break the installation or spoil
a study). No finding names a patient: files stand for them.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medad_fast.errors import InputError
from medad_fast.io.study import MIN_NORMAL, Case, Study

__all__ = ["Facts", "Finding", "check_data", "check_installation"]

State = Literal["ok", "note", "wrong"]

FREE_GIB = 2.0


@dataclass(frozen=True)
class Finding:
    """What one check has to say."""

    state: State
    check: str
    text: str


def check_installation() -> list[Finding]:
    """Versions, compiled kernels, GPU, DICOM decoders, disk."""
    return [finding for check in INSTALLATION_CHECKS for finding in check()]


def check_data(
    data: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """Read every image of a data set and look for what would spoil a study.

    Args:
        data: a folder, manifest or file, as for every verb.
        progress: called with the number of images read and of all images.

    Raises:
        InputError: ``data`` does not exist.
    """
    from medad_fast.io import load_study

    if not Path(data).exists() and "*" not in str(data):
        raise InputError(f"{data}: does not exist")
    try:
        study = load_study(data)
    except InputError as error:
        # What stops every verb at once: no images, a patient in two splits, a broken manifest.
        return [Finding("wrong", "data set", str(error))]
    facts: list[Facts] = []
    findings: list[Finding] = []
    for number, case in enumerate(study.cases, start=1):
        try:
            facts.append(_facts(case))
        except InputError as error:
            findings.append(Finding("wrong", "readable files", str(error)))
        if progress is not None:
            progress(number, len(study.cases))
    if not findings:
        findings.append(Finding("ok", "readable files", f"all {len(facts)} images can be read"))
    return findings + [finding for check in DATA_CHECKS for finding in check(study, facts)]


@dataclass(frozen=True)
class Facts:
    """What the checks compare, kept of each image after its pixels are gone."""

    case: Case
    modality: str
    bits: int
    size: tuple[int, int]
    spacing_mm: tuple[float, float] | None
    colour: bool
    inverted: bool
    slices: dict[str, int]
    """Digest of the pixels of each slice that is not constant, and its place."""
    brighter_border: bool
    """Whether the border is brighter than the middle: a sign of inverted grey levels."""


def _facts(case: Case) -> Facts:
    from medad_fast.io import read, read_mask

    image = read(case.files)
    if case.mask is not None:
        read_mask(case.mask, image)
    pixels = image.pixels
    digests = {}
    for place, pixel_slice in enumerate(pixels):
        if pixel_slice.min() != pixel_slice.max():
            values = np.ascontiguousarray(pixel_slice, dtype=np.float32)
            digests[hashlib.sha256(values.tobytes()).hexdigest()] = place
    height, width = pixels.shape[1:3]
    edge = max(1, min(height, width) // 16)
    middle = pixels[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4]
    border = np.concatenate(
        [
            pixels[:, :edge].reshape(-1),
            pixels[:, -edge:].reshape(-1),
            pixels[:, :, :edge].reshape(-1),
        ]
    )
    spacing = image.spacing_mm
    return Facts(
        case=case,
        modality=image.modality,
        bits=image.provenance.bits_stored,
        size=(height, width),
        spacing_mm=None if spacing is None else (spacing[1], spacing[2]),
        colour=pixels.ndim == 4,
        inverted=image.provenance.inverted,
        slices=digests,
        brighter_border=bool(np.median(border) > np.median(middle)),
    )


def _versions() -> Iterator[Finding]:
    names = ("medad-fast", "torch", "numpy", "scikit-learn", "scikit-image", "pydicom", "nibabel")
    for name in names:
        try:
            yield Finding("ok", name, metadata.version(name))
        except metadata.PackageNotFoundError:
            if name == "medad-fast":
                yield Finding("note", name, "runs from a source folder, it is not installed")
            else:
                yield Finding("wrong", name, f"is not installed: pip install {name}")


def _kernels() -> Iterator[Finding]:
    try:
        import medad_fast

        info = medad_fast.build_info()
    except ImportError as error:
        yield Finding("wrong", "compiled kernels", " ".join(str(error).split()))
        return
    yield Finding("ok", "CPU kernels", f"{info['cpu']}, OpenMP {info['openmp'] or 'no'}")
    if info["cuda"]:
        yield Finding("ok", "CUDA kernels", f"for {info['cuda_archs']}")
    else:
        yield Finding("note", "CUDA kernels", f"none: {info['cuda_reason']}")


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding("ok", "torch threads", str(torch.get_num_threads()))
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        yield Finding("ok", "GPU", f"{torch.cuda.device_count()}: {', '.join(sorted(names))}")
    else:
        yield Finding("note", "GPU", "none that torch can use; everything runs on the CPU")


def _op_runs() -> Iterator[Finding]:
    """A kernel that loads but gives another number than plain torch is worse than none."""
    import torch

    from medad_fast.ops import patch_discrepancy
    from medad_fast.ops.patch_discrepancy import patch_discrepancy_reference

    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 1, 8, 16, 16, generator=generator).unbind()
    arguments = [maps[0]], [maps[1]]
    fused = torch.stack([*patch_discrepancy(*arguments, size=(16, 16))])
    plain = torch.stack([*patch_discrepancy_reference(*arguments, size=(16, 16))])
    error = float((fused - plain).abs().max())
    state: State = "ok" if error < 1e-5 else "wrong"
    yield Finding(state, "kernel against plain torch", f"largest difference {error:.1e}")


def _decoders() -> Iterator[Finding]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import (
        ExplicitVRLittleEndian,
        JPEG2000Lossless,
        JPEGBaseline8Bit,
        JPEGLosslessSV1,
        JPEGLSLossless,
        RLELossless,
    )

    kinds = {
        "uncompressed": ExplicitVRLittleEndian,
        "RLE": RLELossless,
        "JPEG": JPEGBaseline8Bit,
        "JPEG lossless": JPEGLosslessSV1,
        "JPEG-LS": JPEGLSLossless,
        "JPEG 2000": JPEG2000Lossless,
    }
    missing = [name for name, uid in kinds.items() if not get_decoder(uid).is_available]
    found = ", ".join(name for name in kinds if name not in missing)
    yield Finding("ok", "DICOM decoders", found)
    if missing:
        text = f"none for {', '.join(missing)}: pip install 'medad-fast[dicom]'"
        yield Finding("note", "DICOM decoders", text)


def _demo_data() -> Iterator[Finding]:
    try:
        yield Finding("ok", "nilearn (medad demo)", metadata.version("nilearn"))
    except metadata.PackageNotFoundError:
        yield Finding("note", "nilearn (medad demo)", "missing: pip install 'medad-fast[demo]'")


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    state: State = "ok" if free >= FREE_GIB else "note"
    yield Finding(state, "disk", f"{free:.1f} GiB free in {Path.cwd()}")


INSTALLATION_CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    _versions,
    _kernels,
    _op_runs,
    _torch,
    _decoders,
    _demo_data,
    _disk,
)


def _classes(study: Study, facts: list[Facts]) -> Iterator[Finding]:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for fact in facts:
        counts[fact.case.split, fact.case.label] += max(len(fact.slices), 1)
    listed = ", ".join(f"{split} {label} {count}" for (split, label), count in counts.items())
    yield Finding("ok", "images", listed)
    trainable = bool(study.select("train"))
    normals = len(study.select("train", "normal"))
    if trainable and normals < MIN_NORMAL:
        text = f"{normals} normal images or volumes to learn from, at least {MIN_NORMAL} are needed"
        yield Finding("wrong", "normal images", text)
    if trainable and not study.select("validation", "normal"):
        text = "no validation split: fit holds out 20 % of the normal patients"
        yield Finding("note", "validation", text)
    labels = {case.label for case in study.select("test")}
    for label in ("normal", "abnormal"):
        if labels and labels != {"unlabeled"} and label not in labels:
            text = f"no {label} test images: no metric that compares the classes is defined"
            yield Finding("wrong", "test classes", text)


def _patients(study: Study, facts: list[Facts]) -> Iterator[Finding]:
    patients = {case.patient for case in study.cases}
    # Loading the data set has refused a patient in two splits already.
    yield Finding("ok", "patients", f"{len(patients)}, each in one split only")


def _duplicates(study: Study, facts: list[Facts]) -> Iterator[Finding]:
    first: dict[str, Facts] = {}
    within = 0
    example = ""
    for fact in facts:
        for digest in fact.slices:
            other = first.setdefault(digest, fact)
            if other is fact:
                continue
            if other.case.split != fact.case.split:
                text = (
                    f"{fact.case.name} ({fact.case.split}) has the same pixels as "
                    f"{other.case.name} ({other.case.split})"
                )
                yield Finding("wrong", "identical pixels in two splits", text)
                break
            within += 1
            example = f"{fact.case.name} and {other.case.name}"
    if within:
        text = f"{within} slices occur twice in one split, for example in {example}"
        yield Finding("note", "identical pixels", text)


def _uniform(study: Study, facts: list[Facts]) -> Iterator[Finding]:
    """What should be the same in all images, and how bad it is when it is not."""
    aspects: tuple[tuple[str, State, Callable[[Facts], Any]], ...] = (
        ("modality", "wrong", lambda fact: fact.modality),
        ("colour", "wrong", lambda fact: "colour" if fact.colour else "grey"),
        ("bit depth", "note", lambda fact: fact.bits),
        ("size", "note", lambda fact: " x ".join(map(str, fact.size))),
        ("pixel spacing (mm)", "note", _spacing),
        ("MONOCHROME1, inverted when read", "note", lambda fact: "yes" if fact.inverted else "no"),
    )
    for name, bad, aspect in aspects:
        groups: dict[Any, list[Facts]] = defaultdict(list)
        for fact in facts:
            groups[aspect(fact)].append(fact)
        by_size = sorted(groups.items(), key=lambda group: -len(group[1]))
        if len(by_size) == 1:
            yield Finding("ok", name, f"{by_size[0][0]} in all")
        elif by_size:
            shown = ", ".join(f"{value} in {len(found)}" for value, found in by_size[:4])
            odd = by_size[-1][1][0].case.name
            yield Finding(bad, name, f"differs: {shown}; for example {odd}")


def _polarity(study: Study, facts: list[Facts]) -> Iterator[Finding]:
    """Most medical images have a dark border; a few bright ones among them are inverted files."""
    bright = [fact for fact in facts if fact.brighter_border]
    if bright and len(bright) < len(facts):
        few = bright if 2 * len(bright) <= len(facts) else None
        odd = few or [fact for fact in facts if not fact.brighter_border]
        kind = "brighter" if few else "darker"
        text = (
            f"{len(odd)} of {len(facts)} images are {kind} at the border than in the middle, "
            f"unlike the others; are they inverted? For example {odd[0].case.name}"
        )
        yield Finding("wrong" if len(odd) * 10 <= len(facts) else "note", "polarity", text)
    elif facts:
        yield Finding("ok", "polarity", "the same in all, judged by their borders")


def _spacing(fact: Facts) -> str:
    if fact.spacing_mm is None:
        return "unknown"
    return " x ".join(f"{value:.3g}" for value in fact.spacing_mm)


DATA_CHECKS: tuple[Callable[[Study, list[Facts]], Iterable[Finding]], ...] = (
    _classes,
    _patients,
    _duplicates,
    _uniform,
    _polarity,
)
