"""Score a dataset with a fitted run: a table of scores, and maps on the grid of their sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medad_fast.artifacts.overlay import overlay
from medad_fast.artifacts.predictions import Predictions, PredictionsWriter
from medad_fast.artifacts.scores import ScoreRow
from medad_fast.artifacts.versions import own_version
from medad_fast.data import Case, Dataset, Image, Split, load_dataset, read_mask
from medad_fast.data.cohort import check_unseen, known_pixels, pixel_digests
from medad_fast.data.dataset import PatientNames
from medad_fast.data.geometry import in_plane
from medad_fast.dicom_out.writers import MapOrigin, require_highdicom, write_results
from medad_fast.errors import DeviceError, InputError
from medad_fast.evaluation.subgroups import groups_of
from medad_fast.files import atomic_write, folder_lock, read_json
from medad_fast.training.baselines import NAMES
from medad_fast.training.thresholds import at_target, p_value

if TYPE_CHECKING:
    from medad_fast.artifacts.run import Run

Progress = Callable[[int, int], None]
"""Called with the number of files done and the number of files."""


def predict(
    run: str | Path | Run,
    data: str | Path,
    out: str | Path,
    *,
    split: Split = "test",
    target_fpr: float | None = None,
    overlays: bool = False,
    dicom_out: bool = False,
    keep_ids: bool = False,
    strict: bool = False,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every image of a dataset and write tables, maps and masks.

    Files are read, scored and written one at a time. A file that cannot be used is listed in
    ``errors.jsonl`` and the rest goes on. ``predict.json`` is written last: a folder without it
    holds no finished prediction, only ``scores.partial.csv``. A labelled test image with the very
    pixels of one that the run was fitted on cannot be used either: the run has learned it.

    The folder holds all that evaluating needs of the dataset: labels, masks on the grid of the
    maps, and groups (never the values) of those manifest columns that make a subgroup table.

    Args:
        run: folder that :func:`medad_fast.fit` wrote, or the run itself.
        data: a dataset, one file, a pattern with ``*``, or a folder of loose files.
        out: folder for the results, made if missing. Results of an earlier prediction there are
            replaced, except for maps of files that are no longer scored.
        split: which images of a dataset; loose files have no split and are all scored.
        target_fpr: share of normal images that may be called abnormal, above 0 and below 1, if not
            the run's own; the threshold is chosen anew on its validation scores.
        overlays: whether to draw each map over its image (``overlays/``, PNG). They show the
            images, with whatever is burned into them.
        dicom_out: whether to write for each DICOM image a parametric map, a fractional
            segmentation and secondary captures into its study (``dicom/``). They name the patient
            as the image does: the standard demands it. Needs highdicom. See docs/outputs.md.
        keep_ids: whether ``scores.csv`` names patients as the dataset does. Otherwise each is a
            hash with a random salt that is never stored: rows of one patient agree within one
            table, and neither a list of identifiers nor another table can be matched to it.
        strict: whether the first file that cannot be used ends it all.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``; by default ``auto`` for a folder
            and, for a run, where it is.
        progress: called after each file.

    Returns:
        What ``predict.json`` holds; ``counts`` has ``files``, ``failed_files``, ``empty_files``
        (no slice of which was scored, for want of foreground), ``images`` and ``skipped_slices``.

    Raises:
        InputError: there is nothing to score, or, if ``strict``, a file cannot be used, or
            highdicom is not installed where ``dicom_out`` wants it.
        CheckpointError: the run is damaged.
        BusyError: another process writes to ``out``.
        DeviceError: no such device, too little memory, or the disk is full.
    """
    if dicom_out:
        require_highdicom()
    fitted = _run(run, device)
    thresholds = fitted.thresholds
    if target_fpr is not None:
        thresholds = at_target(thresholds, target_fpr)
    dataset = load_dataset(data)
    cases = dataset.select(split)
    if not cases:
        raise InputError(f"{data}: no {split} images to score")
    simulated = _simulated(dataset.root)
    folder = Path(out)
    with folder_lock(folder):
        with Predictions.write(folder) as results:
            names = PatientNames(keep=keep_ids)
            scorer = _Scorer(fitted, thresholds, dataset, results, names, overlays, dicom_out)
            _score_all(scorer, cases, strict, progress)
        about = _about(scorer, split, simulated)
        told = {case.name: case.groups for case in cases}
        groups = groups_of(told, scorer.labelled, len(scorer.patients))
        return results.finish(about, groups)


def _run(run: str | Path | Run, device: str | torch.device | None) -> Run:
    if isinstance(run, (str, Path)):
        from medad_fast.artifacts.run import load

        return load(run, device if device is not None else "auto")
    if device is not None:
        from medad_fast.training.loop import pick_device

        run.method.to(pick_device(device))
    return run


def _score_all(
    scorer: _Scorer, cases: Sequence[Case], strict: bool, progress: Progress | None
) -> None:
    results = scorer.results
    for number, case in enumerate(cases, start=1):
        try:
            scorer.score(case)
        except InputError as error:
            if strict:
                raise
            # Relative to the dataset's root, as every name here.
            reason = str(error).replace(f"{scorer.dataset.root}/", "")
            results.add_failure(case.name, error, reason)
        if progress is not None:
            progress(number, len(cases))
    counts = results.counts
    if not counts["images"]:
        raise InputError(
            f"nothing could be scored: of {len(cases)} files {counts['failed_files']} cannot be "
            f"used (see {results.folder / 'errors.jsonl'}), and {counts['skipped_slices']} slices "
            "are nearly empty"
        )


@dataclass
class _Scorer:
    """What all files share, and what is known of those scored so far."""

    run: Run
    thresholds: dict[str, Any]
    dataset: Dataset
    results: PredictionsWriter
    names: PatientNames
    overlays: bool
    dicom_out: bool
    dicom_results: int = 0
    labelled: dict[str, int] = field(default_factory=dict)
    """How many labelled images were scored of each file."""
    patients: set[str] = field(default_factory=set)
    """Names of the patients of labelled images."""

    def __post_init__(self) -> None:
        run, scale = self.run, self.thresholds["map"]
        self.axis = run.pipeline.config.axis
        self.known = known_pixels(run.splits)
        self.origin = MapOrigin(run.name, run.sha256, own_version(), scale["low"], scale["high"])

    def score(self, case: Case) -> None:
        """Score one file, write its rows and maps; on an error the tables have nothing of it."""
        image = self.run.pipeline.read(case.files)
        mask = None if case.mask is None else read_mask(case.mask, image)
        slices = self.run.pipeline(image)
        if not len(slices.images):
            self.results.add(image, (), (), slices.skipped)
            return
        if case.split == "test" and case.label != "unlabeled":
            check_unseen(case.name, case.split, pixel_digests(slices.images), self.known)
        anomaly_scores, maps = self._predict(case, image, slices.images, slices.index)
        index = slices.index.tolist()
        if self.dicom_out and image.provenance.reader == "dicom":
            folder = self.results.place(f"dicom/{case.name}")
            write_results(folder, image, case.files, maps, self.origin)
            self.dicom_results += 1
        map_name = self.results.save_map(case.name, maps, image)
        if mask is not None:
            self.results.save_mask(case.name, mask, image)
            mask = in_plane(mask, image, self.axis)
        if self.overlays:
            self._draw(case, image, maps, index)
        rows = [
            self._row(case, place, score, mask, map_name)
            for place, score in zip(index, anomaly_scores.tolist(), strict=True)
        ]
        sizes = [case.file_size(len(image.pixels))] * len(index)
        trivial = self.run.baselines.values(slices.images, torch.tensor(sizes, dtype=torch.float64))
        columns = (trivial[name].tolist() for name in NAMES)
        self.results.add(image, rows, zip(*columns, strict=True), slices.skipped)
        if labelled := [row for row in rows if row.label != "unlabeled"]:
            self.labelled[case.name] = len(labelled)
            self.patients.add(labelled[0].patient)

    def _predict(
        self, case: Case, image: Image, images: Tensor, index: Tensor
    ) -> tuple[Tensor, NDArray[np.float32]]:
        try:
            prediction = self.run.score(images)
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"out of memory on {self.run.device} while scoring") from error
        maps = self.run.pipeline.restore(prediction.anomaly_map, image, index)
        if not prediction.anomaly_score.isfinite().all() or not np.isfinite(maps).all():
            raise InputError(f"{case.name}: the method gave a score or map that is not finite")
        return prediction.anomaly_score, maps

    def _draw(
        self, case: Case, image: Image, maps: NDArray[np.float32], index: Sequence[int]
    ) -> None:
        from PIL import Image as Picture

        low, high = self.origin.low, self.origin.high
        shown, sliced = (in_plane(stack, image, self.axis) for stack in (image.pixels, maps))
        for place in index:
            name = f"{case.name}/{place:04d}.png" if len(sliced) > 1 else f"{case.name}.png"
            pixels = overlay(shown[place], sliced[place], low=low, high=high)
            with atomic_write(self.results.place(f"overlays/{name}")) as temporary:
                Picture.fromarray(pixels).save(temporary)

    def _row(
        self,
        case: Case,
        place: int,
        score: float,
        mask: NDArray[np.bool_] | None,
        map_name: str,
    ) -> ScoreRow:
        threshold = float(self.thresholds["score"]["threshold"])
        label = case.label
        if mask is not None:
            label = "abnormal" if mask[place].any() else "normal"
        return ScoreRow(
            path=case.name,
            patient=self.names(case.patient),
            slice=place,
            split=case.split,
            label=label,
            mask="" if case.mask is None else self.dataset.name_of(case.mask),
            map=map_name,
            anomaly_score=score,
            threshold=threshold,
            prediction="abnormal" if score > threshold else "normal",
            p_value=p_value(score, self.thresholds),
        )


def _about(scorer: _Scorer, split: Split, simulated: str | None) -> dict[str, Any]:
    run, name_of = scorer.run, scorer.results.name_of
    return {
        "data": {
            "root": name_of(scorer.dataset.root),
            "split": split,
            "simulated": simulated,
        },
        "run": {
            "path": name_of(run.path),
            "method": run.name,
            "seed": run.seed,
            "sha256": run.sha256,
        },
        "published": run.published,
        "preprocess": run.pipeline.config.to_dict(),
        "thresholds": scorer.thresholds,
        "blocks": None,
        "dicom_results": scorer.dicom_results,
        "patient_ids": "kept" if scorer.names.kept else "hashed",
    }


def _simulated(root: Path) -> str | None:
    """What a dataset of simulated images says of itself."""
    file = root / "simulation.json"
    return str(read_json(file).get("about")) if file.is_file() else None
