"""Score a data set with a fitted run: a table of scores, and maps on the grid of their sources."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medad_fast.artifacts.scores import (
    FORMAT_VERSION,
    SOURCE_COLUMNS,
    ScoreRow,
    TableWriter,
    in_plane,
    score_cells,
    score_columns,
    source_cells,
    write_table,
)
from medad_fast.artifacts.versions import own_version, versions
from medad_fast.data import Case, Dataset, Image, Split, load_dataset, read_mask
from medad_fast.data.cohort import check_unseen, known_pixels, pixel_digests
from medad_fast.data.dataset import PatientNames
from medad_fast.data.layouts import manifest_of
from medad_fast.dicom_out.origin import MapOrigin
from medad_fast.dicom_out.writers import require_highdicom
from medad_fast.errors import DeviceError, InputError
from medad_fast.files import folder_lock, write_text
from medad_fast.training.baselines import NAMES
from medad_fast.training.thresholds import at_target, p_value
from medad_fast.verbs.map_files import Results

if TYPE_CHECKING:
    from medad_fast.artifacts.run import Run

__all__ = ["Progress", "predict"]

_FOLLOWS = ("predict.json", "metrics.json", "volumes.csv", "patients.csv", "report.html")
"""Files that another prediction makes obsolete."""

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
    """Score every image of a data set and write tables and maps.

    Files are read, scored and written one at a time. A file that cannot be used is listed in
    ``errors.jsonl`` and the rest goes on. ``predict.json`` is written last: a folder without it
    holds no finished prediction, only ``scores.partial.csv``. A labelled test image with the very
    pixels of one that the run was fitted on cannot be used either: it would be judged by heart.

    Args:
        run: folder that :func:`medad_fast.fit` wrote, or the run itself.
        data: a data set, one file, a pattern with ``*``, or a folder of loose files.
        out: folder for the results, made if missing. Results of an earlier prediction there are
            replaced, except for maps of files that are no longer scored.
        split: which images of a data set; loose files have no split and are all scored.
        target_fpr: share of normal images that may be called abnormal, above 0 and below 1, if not
            the run's own; the threshold is chosen anew on its validation scores.
        overlays: whether to draw each map over its image (``overlays/``, PNG). They show the
            images, with whatever is burned into them.
        dicom_out: whether to write for each DICOM image a parametric map, a fractional
            segmentation and secondary captures into its study (``dicom/``). They name the patient
            as the image does: the standard demands it. Needs highdicom. See docs/outputs.md.
        keep_ids: whether ``scores.csv`` names patients as the data set does. Otherwise each is a
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
    folder = Path(out)
    with folder_lock(folder):
        for name in _FOLLOWS:
            (folder / name).unlink(missing_ok=True)
        results = Results(
            folder, fitted.pipeline.config.axis, _origin(fitted, thresholds), overlays, dicom_out
        )
        names = PatientNames(keep=keep_ids)
        known = known_pixels(fitted.splits)
        scorer = _Scorer(fitted, thresholds, known, dataset, results, names)
        _score_all(scorer, cases, strict, progress)
        about = _about(scorer, len(cases), split, manifest_of(data))
        write_text(folder / "predict.json", json.dumps(about, indent=2, allow_nan=False) + "\n")
    return about


def _run(run: str | Path | Run, device: str | torch.device | None) -> Run:
    if isinstance(run, (str, Path)):
        from medad_fast.artifacts.run import load

        return load(run, device if device is not None else "auto")
    if device is not None:
        from medad_fast.training.loop import pick_device

        run.method.to(pick_device(device))
    return run


def _origin(run: Run, thresholds: dict[str, Any]) -> MapOrigin:
    scale = thresholds["map"]
    return MapOrigin(run.name, run.sha256, own_version(), scale["low"], scale["high"])


def _score_all(
    scorer: _Scorer, cases: Sequence[Case], strict: bool, progress: Progress | None
) -> None:
    folder = scorer.results.folder
    errors_path = folder / "errors.jsonl"
    with (
        write_table(folder / "scores.csv", score_columns()) as scores,
        write_table(folder / "baselines.csv", NAMES) as baselines,
        write_table(folder / "sources.csv", SOURCE_COLUMNS) as sources,
        errors_path.open("w", encoding="utf-8") as errors,
    ):
        for number, case in enumerate(cases, start=1):
            try:
                scorer.score(case, scores, baselines, sources)
            except InputError as error:
                if strict:
                    raise
                scorer.failed_files += 1
                # Relative to the data set's root, as every name here.
                reason = str(error).replace(f"{scorer.dataset.root}/", "")
                line = {"file": case.name, "class": type(error).__name__, "reason": reason}
                errors.write(json.dumps(line) + "\n")
                errors.flush()
            if progress is not None:
                progress(number, len(cases))
        if not scorer.images:
            raise InputError(
                f"nothing could be scored: of {len(cases)} files {scorer.failed_files} cannot be "
                f"used (see {errors_path}), and {scorer.skipped_slices} slices are nearly empty"
            )


@dataclass
class _Scorer:
    """What all files share, and the counts over them."""

    run: Run
    thresholds: dict[str, Any]
    known: dict[str, str]
    """Digests of the images that the run was fitted on."""
    dataset: Dataset
    results: Results
    names: PatientNames
    images: int = 0
    skipped_slices: int = 0
    failed_files: int = 0
    empty_files: int = 0

    def score(
        self, case: Case, scores: TableWriter, baselines: TableWriter, sources: TableWriter
    ) -> None:
        """Score one file, write its rows and maps; on an error the tables have nothing of it."""
        image = self.run.pipeline.read(case.files)
        mask = None
        if case.mask is not None:
            axis = self.run.pipeline.config.axis
            mask = in_plane(read_mask(case.mask, image), image, axis)
        slices = self.run.pipeline(image)
        if not len(slices.images):
            self.skipped_slices += slices.skipped
            self.empty_files += 1
            return
        if case.split == "test" and case.label != "unlabeled":
            check_unseen(case.name, case.split, pixel_digests(slices.images), self.known)
        anomaly_scores, maps = self._predict(case, image, slices.images, slices.index)
        index = slices.index.tolist()
        map_name = self.results.write(case, image, maps, index)
        trivial = self.run.baselines.values(
            slices.images, _file_size(case, image).expand(len(index))
        )
        scores.write(
            score_cells(self._row(case, place, score, mask, map_name))
            for place, score in zip(index, anomaly_scores.tolist(), strict=True)
        )
        baselines.write(zip(*(trivial[name].tolist() for name in NAMES), strict=True))
        sources.write([source_cells(case.name, image)])
        self.images += len(index)
        self.skipped_slices += slices.skipped

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


def _file_size(case: Case, image: Image) -> Tensor:
    """Bytes of the file where it holds this one image, else NaN."""
    single = len(case.files) == 1 and len(image.pixels) == 1
    return torch.tensor(
        float(case.files[0].stat().st_size) if single else torch.nan, dtype=torch.float64
    )


def _about(scorer: _Scorer, files: int, split: Split, manifest: str | None) -> dict[str, Any]:
    run = scorer.run
    return {
        "format_version": FORMAT_VERSION,
        "data": {
            "root": scorer.results.name_of(scorer.dataset.root),
            "split": split,
            "manifest": manifest,
        },
        "run": {
            "path": scorer.results.name_of(run.path),
            "method": run.name,
            "seed": run.seed,
            "sha256": run.sha256,
        },
        "published": run.published,
        "preprocess": run.pipeline.config.to_dict(),
        "thresholds": scorer.thresholds,
        "counts": {
            "files": files,
            "failed_files": scorer.failed_files,
            "images": scorer.images,
            "empty_files": scorer.empty_files,
            "skipped_slices": scorer.skipped_slices,
        },
        "dicom_results": scorer.results.dicom_sources,
        "patient_ids": "kept" if scorer.names.kept else "hashed",
        "versions": versions(),
    }
