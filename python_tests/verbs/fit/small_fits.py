"""Pictures to fit on in a second, and what stops and compares such fits."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from PIL import Image as Picture
from safetensors.torch import load_file

from python_tests.methods.small import SMALL, discs

NAME = "autoencoder"
TINY = {**SMALL[NAME], "image_size": 32, "epochs": 2}


def write_pictures(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    pixels = ((discs(count, size=40, seed=seed)[:, 0] + 1) * 120).byte().numpy()
    for place, picture in enumerate(pixels):
        Picture.fromarray(picture).save(folder / f"{seed}-{place:02d}.png")


def weights(folder):
    return load_file(folder / "model.safetensors")


def same_weights(a, b):
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def stop_at(step_number, number=signal.SIGTERM):
    def progress(step):
        if step.step == step_number:
            os.kill(os.getpid(), number)

    return progress


def recipe_file(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return path
