"""The folder of a fitted run: written so that it is whole, read so that it is what was written.

``manifest.json``, written last, holds the format version and the sha256 of every other file.
Loading verifies the hashes, then the settings, then that each tensor of the model is there with its
type and shape and is finite. Nothing is ever unpickled. See docs/outputs.md.

Older versions are read, since what they may lack is known. Version 2 has the same files. Version 1
may lack the list of training outliers, and the scores of the validation images that p-values need;
without these a run cannot be used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from medad_fast.artifacts.versions import versions
from medad_fast.data import Image, image_of_array
from medad_fast.data.pipeline import Pipeline
from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.errors import CheckpointError, InputError, MedadError
from medad_fast.files import (
    check_format_version,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
)
from medad_fast.methods import create
from medad_fast.methods.base import Method, Prediction
from medad_fast.settings import to_fields
from medad_fast.training.baselines import Baselines
from medad_fast.training.device import exact_arithmetic
from medad_fast.training.outliers import SHARE, Outlier

FORMAT_VERSION = 3
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
BATCH = 16


@dataclass(frozen=True, eq=False)
class Run:
    """A fitted method with everything that scoring new images needs."""

    path: Path
    name: str
    """The method's name, as in :func:`medad_fast.methods.list_methods`."""
    method: Method
    pipeline: Pipeline
    thresholds: dict[str, Any]
    """From normal validation images only."""
    baselines: Baselines
    """Trivial baselines, fitted on the training images."""
    seed: int
    data: dict[str, Any] = field(default_factory=dict)
    """Counts of the images that it was fitted on."""
    splits: dict[str, Any] = field(default_factory=dict)
    """Names and salted patient hashes of the cases of each split."""
    published: dict[str, Any] | None = None
    """Figures to compare with, where the recipe gives some (:mod:`medad_fast.recipes`)."""
    training_outliers: tuple[Outlier, ...] = ()
    """The 1 % of the training images that score highest, highest first; empty where a run of
    format version 1 does not tell."""
    sha256: str = "unsaved"
    """Of ``manifest.json``, which holds that of every other file: it stands for the whole run."""

    @property
    def device(self) -> torch.device:
        """Where the method's weights are."""
        return self.method.device

    def score(self, images: Tensor) -> Prediction:
        """Score images ``(B, C, h, w)`` that went through :attr:`pipeline`, in small batches.

        Returns:
            Scores ``(B)`` and maps ``(B, 1, h, w)``, float32 on the CPU.
        """
        self.method.eval()
        batches = torch.split(images, BATCH)
        with exact_arithmetic(self.device):
            parts = [self.method.predict(batch.to(self.device)) for batch in batches]
        if not parts:
            return Prediction(torch.zeros(0), torch.zeros(0, 1, *images.shape[-2:]))
        return Prediction(
            torch.cat([part.anomaly_score.cpu() for part in parts]),
            torch.cat([part.anomaly_map.cpu() for part in parts]),
        )

    def predict(self, source: str | Path | NDArray[Any] | Tensor) -> Prediction:
        """Score one file, one array in stored units, or a batch of prepared images.

        Args:
            source: a path that :func:`medad_fast.data.read` reads, or an array ``(H, W)`` or
                ``(S, H, W)`` in stored units: both go through the run's pipeline. An array or
                tensor with four axes is taken as prepared images ``(B, C, h, w)`` in [-1, 1] of the
                run's size and channels.

        Returns:
            For prepared images scores ``(B)`` and maps ``(B, 1, h, w)``. Otherwise one score per
            slice of the run's axis, NaN for a volume's nearly empty slices, which are skipped, and
            maps ``(S, 1, H, W)`` on the image's own grid, 0 there.

        Raises:
            InputError: the source cannot be read, or has a wrong shape, range or type.
        """
        if isinstance(source, (str, Path)):
            return self._predict_image(self.pipeline.read(Path(source)))
        if source.ndim == 4:
            return self.score(self._prepared(source))
        if source.ndim not in (2, 3):
            raise InputError(
                "source must have the axes (H, W), (S, H, W) or (B, C, h, w), "
                f"got the shape {tuple(source.shape)}"
            )
        return self._predict_image(image_of_array(np.asarray(source)))

    def save(self) -> None:
        """Write the files into :attr:`path`, the manifest last; ``log.jsonl`` is there already.

        Raises:
            DeviceError: the disk is full or not writable; without a manifest the folder is no run.
        """
        folder = self.path
        config = {
            "method": self.name,
            "config": to_fields(self.method.config),
            "preprocess": self.pipeline.config.to_dict(),
            "seed": self.seed,
            "data": self.data,
            "published": self.published,
        }
        write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        write_tensors(folder / "model.safetensors", self.method.state_dict())
        write_tensors(folder / "baselines.safetensors", self.baselines.state())
        write_json(folder / "thresholds.json", self.thresholds)
        write_json(folder / "splits.json", self.splits)
        outliers = [asdict(outlier) for outlier in self.training_outliers]
        told = {"share": SHARE, "most_anomalous": outliers}
        write_json(folder / "training_outliers.json", told)
        manifest = {
            "format_version": FORMAT_VERSION,
            "files": {name: _sha256((folder / name).read_bytes()) for name in FILES},
            "versions": versions(),
        }
        write_json(folder / "manifest.json", manifest)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Run:
        """Read a run that :func:`medad_fast.fit` wrote.

        Args:
            path: the run's folder.
            device: where the weights go.

        Raises:
            CheckpointError: a file is missing, damaged or of another format; the message names it.
            DeviceError: no such device.
        """
        from medad_fast.training.loop import pick_device

        folder = Path(path)
        place = pick_device(device)
        version, digests, sha256 = _read_manifest(folder)
        content = {}
        for name in digests:
            if not name.endswith(".safetensors"):
                content[name] = _verified_text(folder / name, digests[name])
        with _damage(folder / "config.yaml"):
            config = yaml.safe_load(content["config.yaml"])
            method = create(config["method"], **config["config"])
            pipeline = Pipeline(PreprocessConfig.from_dict(config["preprocess"]))
            name, seed, data = str(config["method"]), int(config["seed"]), dict(config["data"])
            published = config.get("published")
        with _damage(folder / "thresholds.json"):
            thresholds = dict(json.loads(content["thresholds.json"]))
            if "calibration" not in thresholds["score"]:
                raise CheckpointError(
                    f"{folder} is a run of format version {version}, from before p-values: it "
                    "lacks the scores of its validation images; fit it again with this release"
                )
        with _damage(folder / "splits.json"):
            splits = dict(json.loads(content["splits.json"]))
        outliers: tuple[Outlier, ...] = ()
        if "training_outliers.json" in content:
            with _damage(folder / "training_outliers.json"):
                outliers = tuple(
                    Outlier(str(each["path"]), int(each["slice"]), float(each["anomaly_score"]))
                    for each in json.loads(content["training_outliers.json"])["most_anomalous"]
                )
        weights = read_tensors(folder / "model.safetensors", digests["model.safetensors"])
        with _damage(folder / "model.safetensors"):
            method.make_room(weights)
        _check_weights(folder / "model.safetensors", weights, method.state_dict())
        method.load_state_dict(weights)
        state = read_tensors(folder / "baselines.safetensors", digests["baselines.safetensors"])
        with _damage(folder / "baselines.safetensors"):
            baselines = Baselines.from_state(state)
        method.to(place).eval()
        return cls(
            path=folder,
            name=name,
            method=method,
            pipeline=pipeline,
            thresholds=thresholds,
            baselines=baselines,
            seed=seed,
            data=data,
            splits=splits,
            published=published,
            training_outliers=outliers,
            sha256=sha256,
        )

    def _prepared(self, source: NDArray[Any] | Tensor) -> Tensor:
        images = torch.as_tensor(source)
        config = self.method.config
        wanted = (config.channels, config.image_size, config.image_size)
        if not images.is_floating_point() or tuple(images.shape[1:]) != wanted:
            raise InputError(
                f"source must be floating point (B, {', '.join(map(str, wanted))}), "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        images = images.detach().to("cpu", torch.float32)
        if not torch.isfinite(images).all() or (images.abs() > 1 + 1e-4).any():
            raise InputError("source must hold finite values in [-1, 1] where it has four axes")
        return images

    def _predict_image(self, image: Image) -> Prediction:
        slices = self.pipeline(image)
        kept = self.score(slices.images)
        maps = self.pipeline.restore(kept.anomaly_map, image, slices.index)
        scores = torch.full((len(slices.index) + slices.skipped,), torch.nan)
        scores[slices.index] = kept.anomaly_score
        return Prediction(scores, torch.from_numpy(np.ascontiguousarray(maps))[:, None])


load = Run.load


def _read_manifest(folder: Path) -> tuple[int, dict[str, str], str]:
    """Format version, sha256 of each file by name, and that of the manifest itself."""
    file = folder / "manifest.json"
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give the folder that medad fit wrote")
    if not file.is_file():
        raise CheckpointError(
            f"{folder} is not a finished run: it has no manifest.json (continue it with --resume?)"
        )
    with _damage(file):
        data = file.read_bytes()
        manifest = json.loads(data.decode("utf-8"))
        version = check_format_version(
            file,
            manifest["format_version"],
            oldest=OLDEST_VERSION,
            newest=FORMAT_VERSION,
            what_to_do="fit it again with this release",
        )
        digests = {str(name): str(digest) for name, digest in manifest["files"].items()}
        optional = _SINCE_2 if version < 2 else ()
        if set(digests) | set(optional) != set(FILES):
            raise CheckpointError(f"{file} must list {', '.join(FILES)}, got {', '.join(digests)}")
        return version, digests, _sha256(data)


def _verified_text(file: Path, sha256: str) -> str:
    with _damage(file):
        data = file.read_bytes()
        if _sha256(data) != sha256:
            raise CheckpointError(f"{file} is damaged: its sha256 is not the recorded one")
        return data.decode("utf-8")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    """Whatever goes wrong while ``file`` is understood means that it is damaged."""
    try:
        yield
    except CheckpointError:
        raise
    except (MedadError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} cannot be used: {error}") from error
    except (yaml.YAMLError, RuntimeError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def _check_weights(file: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name in sorted(set(found) ^ set(wanted)):
        state = "lacks" if name in wanted else "has an unknown"
        raise CheckpointError(f"{file} {state} tensor {name!r}")
    for name, value in wanted.items():
        tensor = found[name]
        if tensor.dtype != value.dtype or tensor.shape != value.shape:
            raise CheckpointError(
                f"{file}: tensor {name!r} must be {value.dtype} {tuple(value.shape)}, "
                f"got {tensor.dtype} {tuple(tensor.shape)}"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{file}: tensor {name!r} has values that are not finite")
