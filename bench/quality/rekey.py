"""Give records the key of the present code, where a proof found that no result has changed.

    python -m bench.proof digest --medad OLD/bin/medad --out old.json   # has REVISION
    python -m bench.proof digest --medad NEW/bin/medad --out new.json   # has the present code
    python -m bench.quality.rekey old.json new.json --from REVISION

A record is renamed, and says so in itself, if

- it was of the code of the revision: ``python -m bench.quality --list``, run in a copy of that
  revision with its own rule for keys, names it;
- there is still a fit with its settings; new settings must have their defaults;
- the two digests of the proof are equal in all that they hold of its method;
- what the proof does not see is as it was: the pictures of its set, drawn anew, have the digest in
  the record, and the figures by kind of abnormality come out the same from its scores.

The others stay, and are named with the reason. No figure of a record is changed.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.proof.comparison import compare
from bench.quality.ablations import ablation_fits
from bench.quality.figures import by_kind
from bench.quality.page import RESULTS
from bench.quality.plan import Fit, plan
from bench.quality.record import Record, load_records, record_path
from bench.quality.simulated import SETS, content_digest
from bench.quality.source import ROOT
from medad_fast.errors import MedadError
from medad_fast.files import write_text

NEEDED = ("scores", "metrics")
"""Groups of the proof without which it proves nothing of a record."""
NOT_IN_RECORDS = ("report/*", "overlays/*", "DICOM results/*")
"""What the proof also looks at and no record has a figure from: how scores are shown."""


def main(words: Sequence[str] | None = None) -> int:
    """0; 1 where a record that was current at the revision is stale now."""
    options = _parse(words)
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (options.old, options.new))
    records = load_records(options.results)
    seeds = max((record["seed"] for record in records), default=0) + 1
    fits = [*plan(SETS, None, seeds), *ablation_fits(seeds, list(SETS))]
    now = {fit.stem for fit in fits}
    before = _stems_at(options.revision, seeds, options.python)
    renamed = left = 0
    for record in records:
        stem = _stem(record)
        if stem in now or stem not in before:
            continue
        fit = next((fit for fit in fits if fit.made(record)), None)
        reason = _refusal(record, fit, old, new, options)
        if fit is None or reason is not None:
            left += 1
            print(f"{stem}: left, {reason}", flush=True)
            continue
        _rename(record, fit, options.results)
        renamed += 1
        print(f"{stem}: now {fit.stem}", flush=True)
    older = sum(_stem(record) not in now | before for record in records)
    print(f"{renamed} renamed, {left} left, {older} were stale at {options.revision} already")
    return 1 if left else 0


def _refusal(
    record: Record, fit: Fit | None, old: Any, new: Any, options: argparse.Namespace
) -> str | None:
    """Why a record must keep its old key; ``None`` where it may have the new one."""
    if fit is None:
        return "no fit has its settings any more"
    if record_path(options.results, fit).exists():
        return f"{fit.stem} is there already"
    if found := _differences(old, new, fit.method, options.leave_out):
        return f"the proof found {len(found)} differences, the first: {found[0]}"
    try:
        data = fit.set.build(options.work / "data", fit.seed, fit.variant.share, fit.counts)
    except MedadError as error:
        return f"its set cannot be drawn: {error}"
    if content_digest(data) != record["data"]:
        return "its set is drawn in another way"
    if not _same_kinds(record, data):
        return "its figures by kind of abnormality come out differently"
    return None


def _same_kinds(record: Record, data: Path) -> bool:
    scores = record["scores"]
    images = list(zip(scores["path"], scores["abnormal"], scores["score"], strict=True))
    now, then = by_kind(data, images), record["kinds"]
    # The scores of a record are rounded, which makes some of them equal.
    return now.keys() == then.keys() and all(
        math.isclose(value or 0.0, then[kind] or 0.0, abs_tol=1e-3) for kind, value in now.items()
    )


def _differences(old: Any, new: Any, method: str, leave_out: Sequence[str]) -> list[str]:
    """What two digests of the proof do not share of a method, in words."""
    ours, theirs = (
        {
            "failures": side["failures"],
            "cases": {
                name: case for name, case in side["cases"].items() if name.endswith(f"/{method}")
            },
        }
        for side in (old, new)
    )
    found = compare(ours, theirs, [*NOT_IN_RECORDS, *leave_out])
    unseen = [f"no {group} to compare" for group in NEEDED if not found.equal[group]]
    return [*found.missing, *found.differing, *unseen]


def _rename(record: Record, fit: Fit, results: Path) -> None:
    mark = {"from": record["key"], "date": datetime.date.today().isoformat()}
    renamed = {
        **record,
        "key": fit.key,
        **fit.identity(),
        "rekeyed": [*record.get("rekeyed", []), mark],
    }
    write_text(record_path(results, fit), json.dumps(renamed, allow_nan=False) + "\n")
    (results / f"{_stem(record)}.json").unlink()


def _stem(record: Record) -> str:
    return f"{record['set']}-{record['method']}-{record['seed']}-{record['key']}"


def _stems_at(revision: str, seeds: int, python: Path) -> set[str]:
    """Names of the records that were current at a revision, as its own code tells them."""
    archive = subprocess.run(
        ["git", "archive", revision], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    listing = [str(python), "-m", "bench.quality", "--list", f"--seeds={seeds}"]
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
        for chosen in ([], ["--ablations"]):
            done = subprocess.run(
                [*listing, *chosen],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            lines += done.stdout.splitlines()
    return {line.split()[0] for line in lines}


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality.rekey", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("old", type=Path, help="digests that bench.proof made of the revision")
    parser.add_argument("new", type=Path, help="those of the present code")
    parser.add_argument(
        "--from", required=True, dest="revision", help="of git: the code that the records are of"
    )
    parser.add_argument(
        "--python",
        type=Path,
        default=Path(sys.executable),
        help="one whose compiled part of medad_fast fits the revision; by default this one",
    )
    parser.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="GROUP/QUANTITY",
        help="what else is not compared, as in bench.proof; no figure of a record may be among it",
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path("build/quality"), help="for the sets")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
