"""Does a change move a figure? Digests of everything that a release computes, made and compared.

    python -m bench.proof digest --medad OLD/bin/medad --out old.json
    python -m bench.proof digest --medad NEW/bin/medad --out new.json
    python -m bench.proof compare old.json new.json

Works through the command line ``medad`` alone, so it runs against any release: every method is
fitted on tiny sets of PNG, NIfTI and DICOM, and tensors and numbers (not text) of the run, the
predictions and the report are digested. Both releases must run on one machine with the same torch.
Takes some five minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bench.proof.chain import METHODS, RESNET, Chain
from bench.proof.comparison import compare
from bench.proof.datasets import KINDS, write_dataset, write_resnet
from bench.proof.folders import (
    Groups,
    comparison_groups,
    dataset_groups,
    result_groups,
    run_groups,
)

SHOWN = 20


def main(words: Sequence[str] | None = None) -> int:
    """0; 1 where a step failed, or the digests are not equal."""
    options = _parse(words)
    if options.verb == "compare":
        a, b = (json.loads(path.read_text(encoding="utf-8")) for path in (options.a, options.b))
        for side in (a, b):
            side["cases"] = {
                case: groups
                for case, groups in side["cases"].items()
                if any(fnmatchcase(case, pattern) for pattern in options.cases)
            }
        return _compare(a, b, options.leave_out)
    if options.work is not None:
        return _digest(options, options.work)
    with tempfile.TemporaryDirectory() as folder:
        return _digest(options, Path(folder))


def _digest(options: argparse.Namespace, work: Path) -> int:
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        raise SystemExit(f"{work}: an empty folder expected; its files would be mixed with others")
    write_resnet(work / RESNET)
    cases: dict[str, Groups] = {}
    failures: list[str] = []
    for kind in options.kinds:
        data = write_dataset(kind, work / kind / "data").relative_to(work)
        cases[kind] = dataset_groups(work / kind / "data")
        chain = Chain(options.medad.absolute(), work, kind, data, options.threads)
        for method in options.methods:
            begin = time.monotonic()
            failure = chain.run(method)
            cases[f"{kind}/{method}"] = {
                **run_groups(chain.run_folder(method)),
                **result_groups(chain.result_folder(method)),
            }
            failures += [failure] if failure else []
            state = f"FAILED: {failure}" if failure else f"{time.monotonic() - begin:.0f} s"
            print(f"{kind} {method}: {state}", flush=True)
        if len(options.methods) > 1:
            if failure := chain.compare(*options.methods[:2]):
                failures.append(failure)
                print(f"{kind}: FAILED: {failure}", flush=True)
            cases[kind] |= comparison_groups(chain.comparison)
    text = json.dumps({"failures": failures, "cases": cases}, indent=1, allow_nan=False)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(f"{options.out}: {_count(cases)} quantities of {len(cases)} cases")
    return 1 if failures else 0


def _count(cases: dict[str, Groups]) -> int:
    return sum(len(found) for groups in cases.values() for found in groups.values())


def _compare(a: dict[str, Any], b: dict[str, Any], leave_out: Sequence[str]) -> int:
    found = compare(a, b, leave_out)
    for group, count in found.equal.items():
        print(f"equal: {count} of {group}")
    for pattern in leave_out:
        print(f"left out: {pattern}")
    for title, lines in (
        ("only on one side", found.one_sided),
        ("MISSING", found.missing),
        ("DIFFERENT", found.differing),
    ):
        for line in lines[:SHOWN]:
            print(f"{title}: {line}")
        if len(lines) > SHOWN:
            print(f"{title}: and {len(lines) - SHOWN} more")
    print("Nothing moved." if found.same else "Not the same.")
    return 0 if found.same else 1


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.proof", description=(__doc__ or "").splitlines()[0]
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    digest = verbs.add_parser("digest", help="run a release and digest what it writes")
    digest.add_argument("--medad", type=Path, required=True, help="the command of the release")
    digest.add_argument("--out", type=Path, required=True, help="JSON file")
    digest.add_argument("--work", type=Path, help="empty folder that is kept (default: temporary)")
    digest.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    digest.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    digest.add_argument("--threads", type=int, default=1)
    judge = verbs.add_parser("compare", help="say what differs between two digests")
    judge.add_argument("a", type=Path)
    judge.add_argument("b", type=Path)
    judge.add_argument("--cases", nargs="+", default=["*"], help="patterns, such as png/ddad")
    judge.add_argument(
        "--leave-out", nargs="+", default=[], metavar="GROUP/QUANTITY", help="patterns"
    )
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
