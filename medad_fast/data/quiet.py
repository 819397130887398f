"""Keep the libraries that decode files from saying what stands in them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["hushed_logs", "quiet"]

_TALKATIVE = ("pydicom", "highdicom", "nibabel", "PIL")


@contextmanager
def hushed_logs() -> Iterator[None]:
    """Drop the log lines of file libraries, whatever level of logging is set.

    They quote values of the file, which may identify a patient: pydicom a date that is none,
    highdicom a name without a caret, Pillow every EXIF entry.
    """
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def quiet() -> Iterator[None]:
    """:func:`hushed_logs`, and all warnings dropped, which quote the same."""
    with hushed_logs(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
