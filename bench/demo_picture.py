"""Draw README's picture from the results of ``medad demo``.

    medad demo --out demo
    python -m bench.demo_picture demo docs/images/demo.png

Slices are chosen without looking at the maps: every abnormal subject's largest lesion, evenly
spaced by its size, then normal slices of as many normal subjects. Maps have one scale.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from medad_fast.artifacts.overlay import grey_levels, overlay
from medad_fast.artifacts.predictions import Predictions
from medad_fast.data import read

ABNORMAL, NORMAL = 5, 3
MAGNIFY, GAP = 2, 4

Slice = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def slices(demo: Path, label: str) -> list[Slice]:
    """Image, map and mask of one slice of each test subject, largest lesion first."""
    chosen: list[Slice] = []
    for path in sorted((demo / "data" / "test" / label).iterdir()):
        image = read(path).pixels
        maps = read(demo / "results" / "patchcl-ae" / "maps" / "test" / label / path.name).pixels
        mask_path = demo / "data" / "test" / "masks" / path.name
        mask = read(mask_path).pixels if mask_path.is_file() else np.zeros_like(image)
        areas = (mask != 0).sum(axis=(1, 2))
        place = int(areas.argmax()) if areas.any() else len(image) // 2
        chosen.append((image[place], maps[place], mask[place]))
    return sorted(chosen, key=lambda each: -int((each[2] != 0).sum()))


def column(each: Slice, high: float) -> NDArray[np.uint8]:
    """Image, image with map, and mask, one above the other."""
    pixels, anomaly_map, mask = each
    grey = np.repeat(grey_levels(pixels)[..., None], 3, axis=2)
    lesion = np.repeat(np.where(mask != 0, 255, 24).astype(np.uint8)[..., None], 3, axis=2)
    cells = [grey, overlay(pixels, anomaly_map, low=0.0, high=high), lesion]
    enlarged = [cell.repeat(MAGNIFY, axis=0).repeat(MAGNIFY, axis=1) for cell in cells]
    return np.concatenate(
        [np.pad(cell, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for cell in enlarged]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder that `medad demo` wrote")
    parser.add_argument("out", type=Path, help="PNG file")
    options = parser.parse_args()
    predictions = Predictions.read(options.demo / "results" / "patchcl-ae")
    high = predictions.about["thresholds"]["map"]["high"]
    columns = []
    for label, count in (("abnormal", ABNORMAL), ("normal", NORMAL)):
        found = slices(options.demo, label)
        evenly = np.linspace(0, len(found) - 1, count).round().astype(int)
        columns += [column(found[i], high) for i in evenly]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.concatenate(columns, axis=1)).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
