"""How long the metrics of a large test set take, against the usual loop over thresholds.

    python -m bench.bench_metrics [--images 184] [--side 256] [--json FILE] [--anomalib FOLDER]

12 million pixels by default: pixel AP, AUPRO and best Dice from one sort; AUPRO by the loop that
much published code has (200 thresholds, the regions of each mask labelled anew at each of them);
and 1,000 patient-clustered resamples of 2,000 scores.

``--anomalib FOLDER`` also times anomalib's own AUPRO, AUPR and F1Max, from a folder into which the
wheels of anomalib, torchmetrics, lightning-utilities and opencv-python-headless were unpacked with
``pip install --no-deps --target FOLDER``. Installed as it is published it brings torchvision, and
may replace torch. Its modules that these metrics import but do not use (readers, kornia's labelling
on GPUs) are left out.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.harness.machine import OtherProcesses, describe
from medad_fast.evaluation.bootstrap import draw_clusters, interval, score_replicates
from medad_fast.evaluation.pixels import FPR_LIMIT, PixelCollector, aupro
from medad_fast.evaluation.ranking import average_precision, oracle_dice

THRESHOLDS = 200
SECONDS = 6.0
"""The metrics of 12 million pixels take at most this long on two cores."""
SHARE_OF_LOOP = 0.1
"""And at most this share of the loop's time."""
RESAMPLING_SECONDS = 5.0
OTHERS = 0.05
"""A time during which other processes used more of the processors than this is marked."""

Maps = list[NDArray[np.float32]]
Masks = list[NDArray[np.bool_]]


@dataclass(frozen=True)
class Timed:
    """The fastest of some calls."""

    seconds: float
    cpu_seconds: float
    """Of this process, all its threads."""
    result: Any
    others: float
    """Share of the processors' time that went to other processes meanwhile."""

    def times(self, factor: float = 1.0) -> dict[str, float]:
        """What a record keeps, of ``factor`` as much work."""
        return {
            "seconds": factor * self.seconds,
            "cpu_seconds": factor * self.cpu_seconds,
            "others": self.others,
        }


def main(words: Sequence[str] | None = None) -> int:
    """0, or 1 where a target is missed or two ways do not agree."""
    arguments = _parse(words)
    maps, masks = simulated(arguments.images, arguments.side)
    ours = timed(lambda: one_sort(maps, masks), calls=3)
    loop = timed(lambda: relabelling_loop(maps, masks, arguments.thresholds), calls=1)
    loop_seconds = loop.seconds * THRESHOLDS / arguments.thresholds
    resampling = timed(resample, calls=3)
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": describe(torch.device("cpu")),
        "pixels": sum(each.size for each in maps),
        "one_sort": {**ours.times(), **ours.result},
        "loop": {
            "thresholds": THRESHOLDS,
            "measured_thresholds": arguments.thresholds,
            **loop.times(THRESHOLDS / arguments.thresholds),
            "aupro": loop.result,
        },
        "resampling": resampling.times(),
        "anomalib": anomalib_times(arguments.anomalib, maps, masks),
    }
    verdicts = {
        f"pixel AP, AUPRO and best Dice: {ours.seconds:.2f} s, at most {SECONDS:g} s": (
            ours.seconds <= SECONDS
        ),
        f"share of the loop of {THRESHOLDS} thresholds ({loop_seconds:.1f} s): "
        f"{ours.seconds / loop_seconds:.3f}, at most {SHARE_OF_LOOP:g}": (
            ours.seconds <= SHARE_OF_LOOP * loop_seconds
        ),
        f"1,000 resamples of 2,000 scores: {resampling.seconds:.2f} s, at most "
        f"{RESAMPLING_SECONDS:g} s": resampling.seconds <= RESAMPLING_SECONDS,
        "AUPRO of the loop lies within 0.02": abs(loop.result - ours.result["aupro"]) < 0.02,
    }
    print(f"{record['pixels']:,} pixels, {ours.result['lesions']} lesions")
    for text, met in verdicts.items():
        print(f"{'met   ' if met else 'MISSED'} {text}")
    print(f"anomalib: {record['anomalib']}")
    disturbed = max(ours.others, loop.others, resampling.others)
    if disturbed > OTHERS:
        print(f"other processes used up to {disturbed:.0%} of the processors: do not quote")
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if all(verdicts.values()) else 1


def simulated(images: int, side: int) -> tuple[Maps, Masks]:
    """Noise with up to three brighter discs in every other image; scores hardly ever tie."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    maps, masks = Maps(), Masks()
    for number in range(images):
        mask = np.zeros((side, side), dtype=np.bool_)
        for _ in range(3 * (number % 2)):
            centre, radius = generator.integers(0, side, 2), generator.integers(2, side // 18 + 3)
            mask |= (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        maps.append((generator.gamma(2.0, 1.0, mask.shape) + 2 * mask).astype(np.float32))
        masks.append(mask)
    return maps, masks


def timed(work: Callable[[], Any], *, calls: int) -> Timed:
    """Call ``work`` some times and keep the fastest."""
    found = []
    for _ in range(calls):
        others, start, busy = OtherProcesses(), time.perf_counter(), time.process_time()
        result = work()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - busy
        found.append(Timed(seconds, cpu_seconds, result, others.share()))
    return min(found, key=lambda each: each.seconds)


def one_sort(maps: Maps, masks: Masks) -> dict[str, Any]:
    """What ``medad evaluate`` does with the pixels, from maps to figures."""
    collector = PixelCollector()
    for number, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        collector.add(anomaly_map, mask, number // 4)
    pixels = collector.sort()
    ranking = pixels.ranking()
    return {
        "average_precision": average_precision(ranking, "pixel").value,
        "aupro": aupro(ranking).value,
        "best_dice": oracle_dice(ranking)[0].value,
        "lesions": pixels.lesions,
    }


def relabelling_loop(maps: Maps, masks: Masks, thresholds: int) -> float:
    """AUPRO as much published code has it: at each threshold, each mask's regions once more."""
    from skimage import measure

    low, high = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    normal = sum(int((~mask).sum()) for mask in masks)
    overlaps, rates = [], []
    for threshold in np.linspace(low, high, thresholds, endpoint=False):
        shares, alarms = [], 0
        for anomaly_map, mask in zip(maps, masks, strict=True):
            called = anomaly_map > threshold
            for region in measure.regionprops(measure.label(mask)):
                inside = called[region.coords[:, 0], region.coords[:, 1]]
                shares.append(np.count_nonzero(inside) / region.area)
            alarms += int(np.count_nonzero(called & ~mask))
        overlaps.append(float(np.mean(shares)))
        rates.append(alarms / normal)
    x, y = np.array([*rates, 0.0])[::-1], np.array([*overlaps, 0.0])[::-1]
    cut = x < FPR_LIMIT
    x, y = np.append(x[cut], FPR_LIMIT), np.append(y[cut], np.interp(FPR_LIMIT, x, y))
    return float(np.trapezoid(y, x) / FPR_LIMIT)


def resample() -> tuple[float | None, float | None]:
    """1,000 resamples of 200 patients with 10 scores each; every ranking metric of each."""
    generator = np.random.default_rng(0)
    abnormal = np.repeat(generator.random(200) < 0.3, 10)
    scores = generator.standard_normal(2000) + abnormal
    draws = draw_clusters(200, 1000, 0)
    found = interval(score_replicates(scores, abnormal, np.arange(2000) // 10, draws)["auroc"])
    return found.low, found.high


def anomalib_times(folder: Path | None, maps: Maps, masks: Masks) -> dict[str, Any] | str:
    """Seconds and value of anomalib's own metrics, or why there are none."""
    if folder is None or not (folder / "anomalib").is_dir():
        return "not measured: " + ("no --anomalib" if folder is None else f"not in {folder}")
    preds, target = torch.from_numpy(np.stack(maps)), torch.from_numpy(np.stack(masks)).long()
    try:
        classes = _anomalib_classes(folder)
    except ImportError as error:
        return f"not measured: {error}"
    found: dict[str, Any] = {"version": _version(folder)}
    for name, metric in classes.items():

        def work(metric: Callable[[], Any] = metric) -> float:
            one = metric()
            one.update(preds, target)
            return float(one.compute())

        one = timed(work, calls=1)
        found[name] = {**one.times(), "value": one.result}
    return found


def _anomalib_classes(folder: Path) -> dict[str, Callable[[], Any]]:
    sys.path.insert(0, str(folder))
    for name, content in (
        ("anomalib", {"__path__": [str(folder / "anomalib")]}),
        ("anomalib.metrics", {"__path__": [str(folder / "anomalib" / "metrics")]}),
        ("anomalib.data", {"Batch": object}),
        ("kornia", {}),
        ("kornia.contrib", {"connected_components": None}),
    ):
        module = ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
    places = {"AUPRO": "aupro", "AUPR": "aupr", "F1Max": "f1_score"}
    return {
        name: vars(importlib.import_module(f"anomalib.metrics.{place}"))[f"_{name}"]
        for name, place in places.items()
    }


def _version(folder: Path) -> str:
    found = sorted(folder.glob("anomalib-*.dist-info"))
    return found[0].name.removeprefix("anomalib-").removesuffix(".dist-info") if found else "?"


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.bench_metrics", description="The speed of the metrics"
    )
    parser.add_argument("--images", type=int, default=184)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument(
        "--thresholds",
        type=int,
        default=THRESHOLDS,
        help="how many of the loop's 200 are run; its time is scaled up from them",
    )
    parser.add_argument("--json", type=Path, default=None, help="write the record to this file")
    parser.add_argument("--anomalib", type=Path, default=None, help="folder with its wheels")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
