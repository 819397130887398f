"""What patients are called in tables."""

from __future__ import annotations

import hashlib
import secrets

__all__ = ["PatientNames"]


class PatientNames:
    """Names of patients within one table.

    Each is a hash with a random salt that is never stored: rows of one patient agree within one
    table, and neither a list of identifiers nor another table can be matched to it.
    """

    def __init__(self, *, keep: bool) -> None:
        self.kept = keep
        """Whether names are the identifiers themselves, as ``--keep-ids`` asks."""
        self._salt = secrets.token_bytes(32)

    def __call__(self, patient: str) -> str:
        if self.kept:
            return patient
        name = patient.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(name, key=self._salt, digest_size=8).hexdigest()
