"""``medad predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from medad_fast.cli.console import count_bar, say, warn

SOME_FILES_FAILED = 3


def predict(
    *,
    run: Path,
    data: Path,
    out: Path,
    split: Literal["train", "validation", "test"] = "test",
    target_fpr: float | None = None,
    overlays: Annotated[bool, Parameter(negative=())] = False,
    dicom_out: Annotated[bool, Parameter(negative=())] = False,
    keep_ids: Annotated[bool, Parameter(negative=())] = False,
    strict: Annotated[bool, Parameter(negative=())] = False,
    device: str = "auto",
) -> int:
    """Score images with a fitted run: a table of scores and an anomaly map for each image.

    Writes scores.csv, maps/ (NIfTI for volumes, .npy for pictures, on the grid of the source) and
    predict.json. A file that cannot be used is listed in errors.jsonl, the rest goes on, and the
    exit code is 3.

    Parameters
    ----------
    run:
        Folder that `medad fit` wrote.
    data:
        A dataset, one file, a pattern in quotes ("scans/*.dcm"), or a folder of files.
    out:
        Folder for the results.
    split:
        Which images of a dataset; loose files are all scored.
    target_fpr:
        Share of normal images that may be called abnormal, if not the run's own.
    overlays:
        Also draw each map over its image. These pictures show the patients' images.
    dicom_out:
        Also write each DICOM image's map into its study: a parametric map, a segmentation and
        secondary captures, in dicom/. They name the patient as the image does. Needs highdicom:
        pip install "medad-fast[dicom]".
    keep_ids:
        Name patients as the dataset does, not by a salted hash.
    strict:
        Stop at the first file that cannot be used.
    device:
        auto, cpu, cuda or cuda:NUMBER.
    """
    from medad_fast.verbs.predict import predict as score

    with count_bar("scoring") as progress:
        about = score(
            run,
            data,
            out,
            split=split,
            target_fpr=target_fpr,
            overlays=overlays,
            dicom_out=dicom_out,
            keep_ids=keep_ids,
            strict=strict,
            device=device,
            progress=progress,
        )
    counts = about["counts"]
    good = counts["files"] - counts["failed_files"] - counts["empty_files"]
    say(f"Scored {counts['images']} images from {good} of {counts['files']} files.")
    if counts["skipped_slices"]:
        whole = (
            f", among them all of {counts['empty_files']} files" if counts["empty_files"] else ""
        )
        say(f"Skipped {counts['skipped_slices']} nearly empty slices{whole}.")
    say(f"Scores: {out / 'scores.csv'}")
    if dicom_out:
        say(f"DICOM results of {about['dicom_results']} files: {out / 'dicom'}")
    if counts["failed_files"]:
        warn(f"{counts['failed_files']} files could not be used; see {out / 'errors.jsonl'}")
        return SOME_FILES_FAILED
    return 0
