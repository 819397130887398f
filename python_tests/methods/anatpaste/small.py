"""AnatPaste small enough to train in a test, and chests for it."""

from __future__ import annotations

from python_tests.methods.small import small
from python_tests.phantoms import chest_phantoms

AUGMENTATIONS = ["anatpaste", "cutpaste", "cutpaste-scar", "cutpaste-union", "cutpaste-3way"]


def build(**overrides):
    return small("anatpaste", **overrides)


def chests(count=4, size=256, start=0):
    images = chest_phantoms(range(start, start + count), size, size)
    return images[:, None].float() / 127.5 - 1
