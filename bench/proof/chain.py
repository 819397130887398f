"""The command lines under proof: fit, predict and evaluate every method on every kind of file.

Methods are as small as they can be. Their settings differ between the kinds of file, so that most
options of every method are covered by one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Fields = Mapping[str, Any]

RESNET = "resnet18.safetensors"
STEPS = 8
RESAMPLES = 50
ONE_CLASS = 2  # exit code of evaluate: of training images alone
SOME_FILES_FAILED = 3  # exit code of predict: one picture is damaged on purpose
METHODS: dict[str, Fields] = {
    "patchcl-ae": {"width": 4, "units": 1, "projection_dim": 8, "patches": 32},
    "ddad": {
        "width": 4,
        "members": 2,
        "hidden_dim": 32,
        "batch_size": 4,
        "learning_rate": 0.01,
        "refinement_width": 8,
        "refinement_batch_size": 4,
        "refinement_learning_rate": 0.01,
    },
    "cradl": {"width": 4, "latent_dim": 16, "batch_size": 8, "learning_rate": 0.001},
    "salad": {"width": 4, "latent_dim": 8, "warmup_epochs": 1, "batch_size": 4},
    "anatpaste": {"projection_dim": 8, "batch_size": 4},
    "autoencoder": {"width": 4, "units": 1, "batch_size": 4},
    "patch-knn": {"bank_size": 256},
}
"""By method the settings that all kinds of file share."""
SETTINGS: dict[tuple[str, str], Fields] = {
    ("png", "ddad"): {"latent_dim": 8},
    ("png", "anatpaste"): {"width": 4, "epoch_steps": None},
    ("png", "autoencoder"): {"channels": 3, "schedule": "cosine"},
    ("png", "patch-knn"): {"weights": RESNET},
    ("nifti", "patchcl-ae"): {
        "score": "patch+pixel",
        "normal_margin": 1.0,
        "noise_resolution": [8, 32],
        "layers": [3, 4],
        "negatives": "batch",
        "downsample": "blur",
        "pixel_weight": 1.0,
        "map_smoothing": 3,
    },
    ("nifti", "ddad"): {
        "backbone": "ae-u",
        "refinement_error": True,
        "image_score": "topk",
        "top_k": 20,
        "schedule": "linear",
    },
    ("nifti", "cradl"): {
        "pretext": "reconstruction",
        "density": "flow",
        "flow_width": 16,
        "flow_blocks": 2,
        "map_smoothing": 3,
    },
    ("nifti", "salad"): {
        "latent_side": 4,
        "norm": "batch",
        "adversarial": "least_squares",
        "latent_adversarial_weight": 1.0,
        "prior_weight": 1.0,
        "image_score": "topk",
        "normal_margin": 1.0,
        "map_smoothing": 3,
    },
    ("nifti", "anatpaste"): {
        "width": 4,
        "augmentation": "cutpaste-3way",
        "anatomy": "foreground",
        "optimizer": "adam",
        "density": "mahalanobis",
        "image_score": "quantile",
        "map_layers": [0, 1],
        "map_smoothing": 3,
    },
    ("nifti", "autoencoder"): {
        "loss": "l1",
        "downsample": "blur",
        "image_score": "max",
        "map_smoothing": 3,
    },
    ("nifti", "patch-knn"): {
        "weights": "random",
        "width": 8,
        "layers": [1],
        "selection": "random",
        "neighbours": 3,
        "image_score": "topk",
        "top_k": 20,
    },
    ("dicom", "patchcl-ae"): {
        "residual": False,
        "patch_loss": "cosine",
        "reduction": "mean",
        "adversarial": "saturating",
        "image_score": "quantile",
        "mask_background": True,
    },
    ("dicom", "ddad"): {
        "backbone": "memae",
        "shrinkage": 0.0025,
        "score": "A_inter",
        "map_smoothing": 3,
        "mask_background": True,
    },
    ("dicom", "cradl"): {
        "mirror": False,
        "unit_latents": True,
        "shrinkage": 0.01,
        "components": [1, 2],
        "image_score": "max",
        "saliency": "raw",
    },
    ("dicom", "salad"): {
        "centre_update": "ema",
        "score_rotation": 1.0,
        "map_error": "structure",
        "mask_background": True,
    },
    ("dicom", "anatpaste"): {
        "weights": RESNET,
        "augmentation": "cutpaste-union",
        "lung_mode": "clean",
        "image_score": "classifier",
        "mask_background": True,
    },
    ("dicom", "autoencoder"): {"image_score": "quantile", "mask_background": True},
    ("dicom", "patch-knn"): {"weights": RESNET, "mask_background": True},
}
"""What differs, by kind and method. Those of DICOM stand in a recipe, the others are flags."""
RECIPE: Fields = {
    "about": "Of the proof that nothing changes.",
    "preprocess": {"ct_window_hu": [-900.0, 900.0], "min_foreground": 0.1},
}
PUBLISHED: Sequence[Fields] = [
    {"of": "nothing", "auroc": 0.75, "average_precision": 0.5, "source": "us", "known": "printed"}
]
PREDICT: dict[tuple[str, str], Sequence[str]] = {
    ("png", "patchcl-ae"): ["--overlays"],
    ("nifti", "patchcl-ae"): ["--overlays"],
    ("dicom", "patchcl-ae"): ["--overlays", "--dicom-out"],
    ("png", "autoencoder"): ["--target-fpr=0.3"],
    ("nifti", "autoencoder"): ["--keep-ids"],
    ("dicom", "autoencoder"): ["--split=train"],
}
ONE_CLASS_ONLY = {("dicom", "autoencoder")}
EVALUATE: dict[tuple[str, str], Sequence[str]] = {
    ("nifti", "ddad"): ["--volume-score=top-2", "--patient-score=quantile-0.5"],
    ("nifti", "salad"): ["--no-images"],
}


@dataclass(frozen=True)
class Step:
    """One call of ``medad``, in the work folder."""

    words: Sequence[str]
    exit_codes: Sequence[int] = (0,)
    """Those that are fine."""


@dataclass(frozen=True)
class Chain:
    """All that is done with one kind of file; paths are relative to the work folder."""

    medad: Path
    work: Path
    kind: str
    data: Path
    threads: int

    @property
    def comparison(self) -> Path:
        """What :meth:`compare` writes."""
        return self.work / self.kind / "comparison.json"

    def run_folder(self, method: str) -> Path:
        """What ``medad fit`` writes."""
        return self.work / self.kind / "runs" / method

    def result_folder(self, method: str) -> Path:
        """What ``medad predict`` and ``medad evaluate`` write."""
        return self.work / self.kind / "results" / method

    def run(self, method: str) -> str:
        """Fit, predict and evaluate; what went wrong, or nothing."""
        return self._do([self._fit(method), self._predict(method), self._evaluate(method)])

    def compare(self, first: str, second: str) -> str:
        """Compare the predictions of two methods; what went wrong, or nothing."""
        folders = [self._named(self.result_folder(method)) for method in (first, second)]
        out = f"--out={self._named(self.comparison)}"
        return self._do([Step(["compare", *folders, f"--resamples={RESAMPLES}", out])])

    def _fit(self, method: str) -> Step:
        fields = {**METHODS[method], "image_size": 32, **SETTINGS.get((self.kind, method), {})}
        if self.kind == "dicom":
            recipe = self.work / self.kind / f"{method}.yaml"
            settings = {**RECIPE, "methods": {method: fields}}
            settings["published"] = [{**each, "method": method} for each in PUBLISHED]
            recipe.write_text(json.dumps(settings))  # which is YAML as well
            chosen = [f"--config={self._named(recipe)}"]
        else:
            chosen = [f"--method={method}", *_flags(fields)]
        out = f"--out={self._named(self.run_folder(method))}"
        steps = ["--seed=0", f"--max-steps={STEPS}", "--device=cpu"]
        return Step(["fit", f"--data={self.data}", out, *steps, *chosen])

    def _predict(self, method: str) -> Step:
        run, out = self._named(self.run_folder(method)), self._named(self.result_folder(method))
        words = ["predict", f"--run={run}", f"--data={self.data}", f"--out={out}", "--device=cpu"]
        chosen = PREDICT.get((self.kind, method), ())
        return Step([*words, *chosen], [0, SOME_FILES_FAILED])

    def _evaluate(self, method: str) -> Step:
        case = (self.kind, method)
        words = ["evaluate", self._named(self.result_folder(method)), f"--resamples={RESAMPLES}"]
        expected = ONE_CLASS if case in ONE_CLASS_ONLY else 0
        return Step([*words, "--seed=0", *EVALUATE.get(case, ())], [expected])

    def _named(self, path: Path) -> str:
        return path.relative_to(self.work).as_posix()

    def _do(self, steps: Sequence[Step]) -> str:
        for step in steps:
            done = subprocess.run(
                [self.medad, *step.words],
                cwd=self.work,
                env=_environment(self.threads),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            with (self.work / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"$ medad {' '.join(step.words)}\n{done.stdout}")
            if done.returncode not in step.exit_codes:
                last = " / ".join(done.stdout.strip().splitlines()[-3:])
                return f"medad {' '.join(step.words)}: exit code {done.returncode}: {last}"
        return ""


def _environment(threads: int) -> dict[str, str]:
    """Without what would make Python import another release, or medad compute otherwise."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "MEDAD_", "OMP_", "MKL_"))
    }
    return {**kept, "OMP_NUM_THREADS": str(threads)}


def _flags(fields: Fields) -> Iterator[str]:
    for name, value in fields.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        elif value is not None:
            for each in value if isinstance(value, list) else [value]:
                yield f"--{flag}={each}"
