"""Checks of a dataset for what would spoil an experiment."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.data import load_dataset
from medad_fast.data.dataset import MIN_NORMAL, Dataset
from medad_fast.doctor.facts import FEATURES, Facts, facts_of
from medad_fast.doctor.finding import Finding, State
from medad_fast.errors import InputError

_LISTED = 10
"""This many files that cannot be read are listed."""
_LIKE_THE_OTHERS = 0.5
"""Correlation with what all images have in common, above which polarity can be judged."""
_TWICE = 1.9
"""Sizes and spacings that differ by this factor show the body at another scale."""
_PHOTOGRAPHED = ("US", "XC", "ES", "GM", "OP", "SC")
"""Modalities whose pictures often hold text, and must say in the header if they do not."""
_SEPARATES = 0.9
"""AUROC from which a feature separates two groups."""
_BY_CHANCE = 0.01
"""Largest probability that any of the features separates two equal groups so well."""


def check_data(
    data: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """Read every image of a dataset and look for what would spoil an experiment.

    Args:
        data: a folder, manifest or file, as for every verb.
        progress: called with the number of images read and of all images.

    Raises:
        InputError: ``data`` does not exist.
    """
    if not Path(data).exists() and "*" not in str(data):
        raise InputError(f"{data}: does not exist")
    try:
        dataset = load_dataset(data)
    except InputError as error:
        # No verb works: no images, a patient in two splits, a broken manifest.
        return [Finding("wrong", "dataset", str(error))]
    facts: list[Facts] = []
    refusals: list[str] = []
    for number, case in enumerate(dataset.cases, start=1):
        try:
            facts.append(facts_of(case))
        except InputError as error:
            refusals.append(str(error))
        if progress is not None:
            progress(number, len(dataset.cases))
    findings = [Finding("wrong", "readable files", text) for text in refusals[:_LISTED]]
    if len(refusals) > _LISTED:
        text = f"{len(refusals) - _LISTED} further files cannot be read"
        findings.append(Finding("wrong", "readable files", text))
    if not refusals:
        findings.append(Finding("ok", "readable files", f"all {len(facts)} images can be read"))
    return findings + [finding for check in DATA_CHECKS for finding in check(dataset, facts)]


def _classes(dataset: Dataset, facts: list[Facts]) -> Iterator[Finding]:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for fact in facts:
        counts[fact.case.split, fact.case.label] += max(len(fact.slices), 1)
    listed = ", ".join(f"{split} {label} {count}" for (split, label), count in counts.items())
    yield Finding("ok", "images", listed)
    trainable = bool(dataset.select("train"))
    normals = len(dataset.select("train", "normal"))
    if trainable and normals < MIN_NORMAL:
        text = f"{normals} normal images or volumes to learn from, at least {MIN_NORMAL} are needed"
        yield Finding("wrong", "normal images", text)
    if trainable and not dataset.select("validation", "normal"):
        text = "no validation split: fit holds out 20 % of the normal patients"
        yield Finding("note", "validation", text)
    labels = {case.label for case in dataset.select("test")}
    for label in ("normal", "abnormal"):
        if labels and labels != {"unlabeled"} and label not in labels:
            text = f"no {label} test images: no metric that compares the classes is defined"
            yield Finding("wrong", "test classes", text)


def _patients(dataset: Dataset, facts: list[Facts]) -> Iterator[Finding]:
    patients = {case.patient for case in dataset.cases}
    # A patient in two splits was refused when the dataset was loaded.
    yield Finding("ok", "patients", f"{len(patients)}, each in one split only")


def _values(dataset: Dataset, facts: list[Facts]) -> Iterator[Finding]:
    for found, text in (
        ([fact for fact in facts if fact.nonfinite], "hold NaN or infinite pixels"),
        ([fact for fact in facts if not fact.slices], "have one grey level only"),
        ([fact for fact in facts if fact.empty_mask], "are abnormal, but their mask is empty"),
    ):
        if found:
            yield Finding("wrong", "pixels", f"{_of(found, facts)} {text}; {_example(found)}")


def _duplicates(dataset: Dataset, facts: list[Facts]) -> Iterator[Finding]:
    first: dict[str, Facts] = {}
    within = 0
    example = ""
    for fact in facts:
        for digest in fact.slices:
            other = first.setdefault(digest, fact)
            if other is fact:
                continue
            pair = f"{fact.case.name} has the same pixels as {other.case.name}"
            if other.case.split != fact.case.split:
                text = f"{pair}, but one is in {fact.case.split}, one in {other.case.split}"
                yield Finding("wrong", "identical pixels in two splits", text)
                break
            if other.case.label != fact.case.label or other.case.patient != fact.case.patient:
                text = f"{pair}, but they are of two patients or labels"
                yield Finding("wrong", "identical pixels of two patients", text)
                break
            within += 1
            example = f"{fact.case.name} and {other.case.name}"
    if within:
        text = f"{within} slices of one patient occur twice, for example in {example}"
        yield Finding("note", "identical pixels", text)


def _uniform(dataset: Dataset, facts: list[Facts]) -> Iterator[Finding]:
    """What should be the same in all images, and how bad it is when it is not."""
    aspects: tuple[tuple[str, Callable[[Facts], Any], Callable[[set[Any]], State]], ...] = (
        ("modality", lambda fact: fact.modality, lambda _: "wrong"),
        ("colour", lambda fact: "colour" if fact.colour else "grey", lambda _: "wrong"),
        ("bit depth", lambda fact: fact.bits, _how_bad_bits),
        ("size", lambda fact: fact.size, _how_bad_lengths),
        ("pixel spacing (mm)", _spacing, _how_bad_lengths),
        (
            "MONOCHROME1, inverted when read",
            lambda fact: "yes" if fact.inverted else "no",
            lambda _: "note",
        ),
    )
    for name, aspect, how_bad in aspects:
        groups: dict[Any, list[Facts]] = defaultdict(list)
        for fact in facts:
            groups[aspect(fact)].append(fact)
        by_size = sorted(groups.items(), key=lambda group: -len(group[1]))
        if len(by_size) == 1:
            yield Finding("ok", name, f"{_shown(by_size[0][0])} in all")
        elif by_size:
            shown = ", ".join(f"{_shown(value)} in {len(found)}" for value, found in by_size[:4])
            odd = by_size[-1][1]
            yield Finding(how_bad(set(groups)), name, f"differs: {shown}; {_example(odd)}")


def _how_bad_bits(bits: set[int]) -> State:
    """12 and 16 bits of one scanner mean the same; 8 bits have lost something in an export."""
    return "wrong" if min(bits) <= 8 < max(bits) else "note"


def _how_bad_lengths(lengths: set[tuple[float, float] | None]) -> State:
    known = [each for each in lengths if each is not None]
    factors = [max(side) / min(side) for side in zip(*known, strict=True)]
    return "wrong" if None in lengths or max(factors, default=1.0) >= _TWICE else "note"


def _spacing(fact: Facts) -> tuple[float, float] | None:
    if fact.spacing_mm is None:
        return None
    return float(f"{fact.spacing_mm[0]:.3g}"), float(f"{fact.spacing_mm[1]:.3g}")


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    return " x ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)


def _polarity(dataset: Dataset, facts: list[Facts]) -> Iterator[Finding]:
    """An image that looks like the negative of what all have in common is an inverted file."""
    thumbnails = np.array([fact.thumbnail for fact in facts])
    if len(facts) < 2 or not thumbnails.any():
        return
    common = np.linalg.svd(thumbnails, full_matrices=False)[2][0]
    likeness = thumbnails @ common
    if np.median(likeness) < 0:
        likeness = -likeness
    if np.median(abs(likeness)) < _LIKE_THE_OTHERS:
        yield Finding("ok", "polarity", "cannot be judged: the images have little in common")
        return
    odd = [facts[i] for i in np.flatnonzero(likeness < -_LIKE_THE_OTHERS)]
    if odd:
        text = f"{_of(odd, facts)} look like negatives of the others; {_example(odd)}"
        yield Finding("wrong", "polarity", text)
    else:
        yield Finding("ok", "polarity", "the same in all, judged by their likeness")


def _burned_in(dataset: Dataset, facts: list[Facts]) -> Iterator[Finding]:
    """Marks name patients, and marks that are more frequent in one class give it away."""
    told = [fact for fact in facts if fact.said_burned_in == "YES"]
    if told:
        text = f"{_of(told, facts)} say that text is burned into them; {_example(told)}"
        yield Finding("wrong", "burned-in text", text)
    silent = [f for f in facts if f.modality in _PHOTOGRAPHED and f.said_burned_in == ""]
    if silent:
        text = f"{_of(silent, facts)} do not say whether text is burned in; {_example(silent)}"
        yield Finding("note", "burned-in text", text)
    marked = [fact for fact in facts if fact.marked]
    if not marked:
        yield Finding("ok", "burned-in marks", "none found")
        return
    groups = Counter(_group(fact) for fact in facts)
    shares = Counter(_group(fact) for fact in marked)
    everywhere = all(shares[group] >= 0.8 * count for group, count in groups.items())
    text = f"something is burned into {_of(marked, facts)}; {_example(marked)}"
    yield Finding("note" if everywhere else "wrong", "burned-in marks", text)


def _group(fact: Facts) -> tuple[str, str]:
    return fact.case.split, fact.case.label


def _of(found: list[Facts], facts: list[Facts]) -> str:
    return f"{len(found)} of {len(facts)} images"


def _example(found: list[Facts]) -> str:
    return f"for example {found[0].case.name}"


def _shortcuts(dataset: Dataset, facts: list[Facts]) -> Iterator[Finding]:
    """Compare normal with abnormal test images, and training with test images that are normal."""
    normal, abnormal, learned = (
        np.array([f.features for f in facts if (f.case.split, f.case.label) == group])
        for group in (("test", "normal"), ("test", "abnormal"), ("train", "normal"))
    )
    pairs: tuple[tuple[NDArray[np.float64], NDArray[np.float64], State, str, str], ...] = (
        (normal, abnormal, "wrong", "shortcuts", "normal from abnormal test images"),
        (learned, normal, "note", "training and test", "training from test images, both normal"),
    )
    for first, second, state, check, what in pairs:
        if not len(first) or not len(second):
            continue
        found = _separating(first, second)
        if found:
            listed = ", ".join(f"{name} (AUROC {auroc:.2f})" for name, auroc in found)
            yield Finding(state, check, f"{listed} alone tells {what}")
        else:
            yield Finding("ok", check, f"no trivial feature tells {what}")


def _separating(first: NDArray[np.float64], second: NDArray[np.float64]) -> list[tuple[str, float]]:
    """Features with their AUROC, in either direction, best first."""
    from scipy.stats import mannwhitneyu

    found = []
    for place, name in enumerate(FEATURES):
        a, b = first[:, place], second[:, place]
        if a.min() == max(a.max(), b.max()) == b.min():
            continue
        tested = mannwhitneyu(a, b)
        auroc = float(tested.statistic) / (len(a) * len(b))
        auroc = max(auroc, 1 - auroc)
        if auroc >= _SEPARATES and tested.pvalue * len(FEATURES) < _BY_CHANCE:
            found.append((name, auroc))
    return sorted(found, key=lambda each: -each[1])


DATA_CHECKS: tuple[Callable[[Dataset, list[Facts]], Iterable[Finding]], ...] = (
    _classes,
    _patients,
    _values,
    _duplicates,
    _uniform,
    _polarity,
    _burned_in,
    _shortcuts,
)
