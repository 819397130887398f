"""``manifest.json`` of a run's folder: which files there are, by sha256, and in which format.

Version 1 is read as well, since what it may lack is known: the list of training outliers came
later, and so did the scores of the validation images that p-values need. Without these a run cannot
be used. Version 2 has both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from medad_fast.artifacts.versions import versions
from medad_fast.errors import CheckpointError, MedadError
from medad_fast.files import write_text

__all__ = ["FILES", "FORMAT_VERSION", "Manifest", "damage", "read_manifest", "write_manifest"]

FORMAT_VERSION = 2
OLDEST_VERSION = 1
FILES = (
    "config.yaml",
    "model.safetensors",
    "baselines.safetensors",
    "thresholds.json",
    "splits.json",
    "training_outliers.json",
    "log.jsonl",
)
_SINCE_2 = ("training_outliers.json",)


@dataclass(frozen=True)
class Manifest:
    """What a run's folder holds."""

    folder: Path
    version: int
    files: dict[str, str]
    """sha256 of each file by name."""
    sha256: str
    """Of the manifest, and so of the whole run."""

    def text(self, name: str) -> str:
        """The content of a text file.

        Raises:
            CheckpointError: it is missing, or not what was written.
        """
        file = self.folder / name
        with damage(file):
            data = file.read_bytes()
            if hashlib.sha256(data).hexdigest() != self.files[name]:
                raise CheckpointError(f"{file} is damaged: its sha256 is not the recorded one")
            return data.decode("utf-8")


def write_manifest(folder: Path) -> str:
    """Write the manifest of a folder that holds all of :data:`FILES`; returns its sha256.

    Raises:
        DeviceError: the disk is full or not writable; without a manifest the folder is no run.
    """
    manifest = {
        "format_version": FORMAT_VERSION,
        "files": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES},
        "versions": versions(),
    }
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    write_text(folder / "manifest.json", text)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a run's folder.

    Raises:
        CheckpointError: there is none, it is damaged, or of a format that this release does not
            read; the message says what to do.
    """
    file = folder / "manifest.json"
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give the folder that medad fit wrote")
    if not file.is_file():
        raise CheckpointError(
            f"{folder} is not a finished run: it has no manifest.json (continue it with --resume?)"
        )
    with damage(file):
        data = file.read_bytes()
        manifest = json.loads(data.decode("utf-8"))
        version = manifest["format_version"]
        if type(version) is not int or version < OLDEST_VERSION:
            raise CheckpointError(f"{file} is damaged: {version!r} is no format version")
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{file} has format version {version}, this release reads versions "
                f"{OLDEST_VERSION} to {FORMAT_VERSION}: install a newer medad-fast"
            )
        digests = {str(name): str(digest) for name, digest in manifest["files"].items()}
        optional = _SINCE_2 if version < 2 else ()
        if set(digests) | set(optional) != set(FILES):
            raise CheckpointError(f"{file} must list {', '.join(FILES)}, got {', '.join(digests)}")
        return Manifest(folder, version, digests, hashlib.sha256(data).hexdigest())


@contextmanager
def damage(file: Path) -> Iterator[None]:
    """Whatever goes wrong while ``file`` is understood means that it is damaged."""
    try:
        yield
    except CheckpointError:
        raise
    except (MedadError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} cannot be used: {error}") from error
    except (yaml.YAMLError, RuntimeError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
