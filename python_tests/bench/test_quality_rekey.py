"""Records get the key of the present code where, and only where, nothing that they say moved."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest

from bench.quality import rekey
from bench.quality.record import load_records
from bench.quality.simulated import QualitySet, content_digest
from medad_fast.errors import InputError
from python_tests.bench.quality_fits import fit_of

PATHS = ["test/normal/a.png", "test/normal/b.png", "test/abnormal/c.png", "test/abnormal/d.png"]
SCORES = {
    "path": PATHS,
    "patient": ["1", "2", "1", "2"],
    "abnormal": [False, False, True, True],
    "score": [0.1, 0.5, 0.4, 0.9],
}
KINDS = {"fluid": 0.5, "drusen": 1.0}
CASES = {
    f"{kind}/{method}": {
        "scores": {"anomaly_score": {"values": [0.25, 1.0]}},
        "metrics": {"image.auroc.value": {"values": [0.75]}},
        "report": {"page: tables": {"values": [3.0]}},
    }
    for kind in ("png", "nifti")
    for method in ("autoencoder", "salad")
}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Records of two methods and of two seeds by an earlier code, which was the revision's."""
    return Bench(tmp_path, monkeypatch)


class Bench:
    def __init__(self, folder, monkeypatch):
        self.folder, self.results = folder, folder / "results"
        self.data = folder / "data"
        self.data.mkdir()
        self.results.mkdir()
        (self.data / "a.png").write_bytes(b"pixels")
        rows = "".join(f"{path},{kind}\n" for path, kind in zip(PATHS[2:], KINDS, strict=True))
        (self.data / "lesions.csv").write_text("file,kind\n" + rows)
        self.fits = [fit_of(), fit_of(seed=1), fit_of("salad")]
        self.old = {fit.stem: self.record(fit, f"old{n}") for n, fit in enumerate(self.fits)}
        for record in self.old.values():
            self.write(record)
        self.stems = {rekey._stem(record) for record in self.old.values()}
        monkeypatch.setattr(rekey, "_stems_at", lambda *_: self.stems)
        monkeypatch.setattr(QualitySet, "build", lambda *_: self.data)

    def record(self, fit, key):
        return {
            "format": 1,
            "key": key,
            **json.loads(json.dumps(fit.identity())),
            "source": "another",
            "hours": None,
            "data": content_digest(self.data),
            "metrics": {"image": {"auroc": {"value": 0.75}}},
            "kinds": KINDS,
            "scores": SCORES,
            "date": "2026-11-21",
        }

    def write(self, record):
        (self.results / f"{rekey._stem(record)}.json").write_text(json.dumps(record))

    def run(self, now=CASES, failures=(), more=()):
        paths = [self.folder / "old.json", self.folder / "new.json"]
        sides = ({"failures": [], "cases": CASES}, {"failures": list(failures), "cases": now})
        for path, side in zip(paths, sides, strict=True):
            path.write_text(json.dumps(side))
        words = [*map(str, paths), "--from", "HEAD", "--results", str(self.results)]
        return rekey.main([*words, "--work", str(self.folder), *more])

    def names(self):
        return {path.stem for path in self.results.iterdir()}


def test_records_whose_proof_is_equal_get_the_new_key_and_say_so(bench, capsys):
    assert bench.run() == 0
    assert "3 renamed, 0 left, 0 were stale" in capsys.readouterr().out
    assert bench.names() == set(bench.old)
    for record in load_records(bench.results):
        before = bench.old[rekey._stem(record)]
        (mark,) = record.pop("rekeyed")
        assert mark["from"] == before["key"]
        assert mark["date"] >= "2026-01-01"
        changed = {name for name in before if record[name] != before[name]}
        assert changed == {"key", "source"}
    assert bench.run() == 0
    assert "0 renamed, 0 left" in capsys.readouterr().out


def test_a_record_that_was_stale_already_stays_stale(bench, capsys):
    bench.stems = {stem for stem in bench.stems if "-0-" in stem}
    assert bench.run() == 0
    assert "2 renamed, 0 left, 1 were stale at HEAD already" in capsys.readouterr().out
    assert "oct-autoencoder-1-old1" in bench.names()


def test_a_method_whose_results_moved_keeps_its_old_keys(bench, capsys):
    now = copy.deepcopy(CASES)
    now["nifti/salad"]["scores"]["anomaly_score"]["values"][1] = 1.5
    now["png/autoencoder"]["report"]["page: tables"]["values"][0] = 4.0  # shows, and makes none
    assert bench.run(now) == 1
    said = capsys.readouterr().out
    assert "oct-salad-0-old2: left, the proof found 1 differences, the first: nifti/salad" in said
    assert "2 renamed, 1 left" in said
    assert "oct-salad-0-old2" in bench.names()
    assert bench.run(now, more=["--leave-out", "scores/anomaly_*"]) == 1
    assert "the first: no scores to compare" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("now", "failures", "reason"),
    [
        ({name: case for name, case in CASES.items() if "png" in name}, [], "is in A only"),
        ({}, [], "is in A only"),
        (CASES, ["medad fit: exit code 1"], "B failed: medad fit"),
    ],
)
def test_a_proof_that_is_not_whole_proves_nothing(bench, capsys, now, failures, reason):
    assert bench.run(now, failures) == 1
    said = capsys.readouterr().out
    assert reason in said
    assert "0 renamed, 3 left" in said


def test_a_set_that_is_drawn_otherwise_or_not_at_all_keeps_its_records(bench, capsys, monkeypatch):
    (bench.data / "a.png").write_bytes(b"other pixels")
    assert bench.run() == 1
    assert capsys.readouterr().out.count("left, its set is drawn in another way") == 3

    def fail(*_):
        raise InputError("no CT")

    monkeypatch.setattr(QualitySet, "build", fail)
    assert bench.run() == 1
    assert capsys.readouterr().out.count("left, its set cannot be drawn: no CT") == 3


def test_figures_by_kind_are_taken_again_since_no_proof_holds_them(bench, capsys):
    record = bench.old[bench.fits[0].stem]
    bench.write(record | {"kinds": {**KINDS, "fluid": 0.75}})
    other = bench.old[bench.fits[1].stem]
    bench.write(other | {"kinds": {**KINDS, "fluid": 0.5004}})  # scores of a record are rounded
    assert bench.run() == 1
    said = capsys.readouterr().out
    assert "oct-autoencoder-0-old0: left, its figures by kind" in said
    assert "2 renamed, 1 left" in said


def test_a_record_of_settings_that_are_fitted_no_more_or_again_stays(bench, capsys):
    record = bench.old[bench.fits[0].stem]
    bench.write(record | {"config": record["config"] | {"width": 999}})
    fresh = bench.record(bench.fits[1], bench.fits[1].key)
    bench.write(fresh)
    assert bench.run() == 1
    said = capsys.readouterr().out
    assert "oct-autoencoder-0-old0: left, no fit has its settings any more" in said
    assert f"oct-autoencoder-1-old1: left, {bench.fits[1].stem} is there already" in said
    assert "rekeyed" not in json.loads((bench.results / f"{bench.fits[1].stem}.json").read_text())


def test_a_revision_tells_its_keys_by_its_own_code(tmp_path, monkeypatch):
    monkeypatch.setattr(rekey, "ROOT", tmp_path)
    code = tmp_path / "bench/quality/__main__.py"
    code.parent.mkdir(parents=True)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    for rule in ("one", "two"):
        code.write_text(f"import sys\nprint('{rule}-' + '-'.join(sys.argv[1:]), 'label', 'done')\n")
        subprocess.run([*git, "add", "."], cwd=tmp_path, check=True)
        subprocess.run([*git, "commit", "-qm", rule], cwd=tmp_path, check=True)
    for revision, rule in (("HEAD~1", "one"), ("HEAD", "two")):
        assert rekey._stems_at(revision, 3, sys.executable) == {
            f"{rule}---list---seeds=3",
            f"{rule}---list---seeds=3---ablations",
        }
