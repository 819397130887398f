"""From a dataset to a fitted run: load, hold out, prepare, train, choose thresholds, save."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from medad_fast.artifacts.run import FILES, Run, load
from medad_fast.data import hold_out_tuning, hold_out_validation, load_dataset, require_trainable
from medad_fast.data.cohort import Cohort, FitData
from medad_fast.data.dataset import first_of_pools
from medad_fast.data.pipeline import Pipeline, resolve_modality
from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.errors import InputError
from medad_fast.files import folder_lock
from medad_fast.methods import config_class, create
from medad_fast.recipes import Recipe, load_recipe
from medad_fast.recipes.published import for_run
from medad_fast.settings import from_fields, to_fields
from medad_fast.training.baselines import Baselines
from medad_fast.training.device import exact_arithmetic
from medad_fast.training.estimate import Estimate, Estimator
from medad_fast.training.loop import OnStep, Precision, pick_device, seed_for, train
from medad_fast.training.outliers import Outlier, most_anomalous
from medad_fast.training.state import Request, StateFolder
from medad_fast.training.thresholds import TARGET_FPR, check_target, choose

BATCH = 16


def fit(
    method: str,
    data: str | Path,
    out: str | Path,
    *,
    seed: int | None = None,
    max_steps: int | None = None,
    device: str | torch.device = "auto",
    resume: bool = False,
    config: str | Path | None = None,
    preprocess: dict[str, Any] | None = None,
    precision: Precision = "float32",
    target_fpr: float = TARGET_FPR,
    progress: OnStep | None = None,
    on_estimate: Callable[[Estimate], None] | None = None,
    **overrides: Any,
) -> Run:
    """Fit a method on the normal images of a dataset and save the run.

    Args:
        method: a name of :func:`medad_fast.methods.list_methods`.
        data: what :func:`medad_fast.data.load_dataset` reads: a folder, a ``manifest.csv`` or a
            ``data.json``. Images of a folder without any such layout are taken as normal.
        out: the run's folder; made if missing.
        seed: of weights, data order, noise and held-out patients; 0 by default.
        max_steps: at most this many steps in each stage.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``.
        resume: go on with an unfinished run in ``out``, bit for bit; a finished one is loaded.
        config: recipe, a YAML file or the name of a packaged one.
        preprocess: fields of ``PreprocessConfig``; they win over the recipe's.
        precision: ``bfloat16`` trains under autocast.
        target_fpr: share of normal images that may be called abnormal, above 0 and below 1. The
            threshold for it is chosen on the normal validation images; if the method tunes on half
            of the validation patients, on those of the other half.
        progress: called after each step.
        on_estimate: called once in each stage, after ten steps, with the time and memory that the
            rest of this stage will take.
        **overrides: fields of the method's configuration; they win over the recipe's.

    Returns:
        The run, as :func:`medad_fast.load` gives it.

    Raises:
        InputError: data, a setting or the recipe cannot be used; the message says which.
        BusyError: another process writes to ``out``.
        CheckpointError: the state to resume from is damaged, or of other settings or data.
        DeviceError: no such device, too little memory, or the disk is full.
        Interrupted: SIGINT or SIGTERM came; ``resume=True`` goes on from there.
    """
    recipe = load_recipe(config) if config is not None else Recipe()
    fields = {**recipe.fields_of(method), **overrides}
    seed = next(value for value in (seed, recipe.seed, 0) if value is not None)
    max_steps = max_steps if max_steps is not None else recipe.max_steps
    _check_numbers(seed, max_steps)
    check_target(target_fpr)
    settings = from_fields(config_class(method), fields, f"method {method}")
    prepared = _preprocess_config(settings, {**recipe.preprocess_of(method), **(preprocess or {})})
    place = pick_device(device)
    folder = Path(out)
    dataset = load_dataset(data, loose_files_are="normal")
    require_trainable(dataset)
    dataset = hold_out_validation(dataset, seed=seed)
    with folder_lock(folder):
        if (folder / "manifest.json").is_file():
            return _finished(folder, resume, place, method, seed)
        state = StateFolder(folder / "state")
        state.require_free(FILES)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "weights"))
            model = create(method, **fields)
        if model.tunes:
            dataset = hold_out_tuning(dataset, seed=seed)
        pipeline = Pipeline(resolve_modality(prepared, dataset.select("train", "normal")))
        pool = dataset.select("train", "unlabeled") if model.uses_unlabeled else ()
        seen = FitData.load(dataset, pipeline, first_of_pools(pool, recipe.unlabeled))
        request = Request(
            method,
            to_fields(settings),
            pipeline.config.to_dict(),
            seed,
            max_steps,
            precision,
            seen.digest(),
        )
        state.accept(request, resume=resume)
        with exact_arithmetic(place):
            train(
                model,
                seen.training.images,
                seen.unlabeled.images,
                seed=seed,
                max_steps=max_steps,
                device=place,
                precision=precision,
                state=state.path,
                resume=resume,
                log=folder / "log.jsonl",
                progress=Estimator(on_estimate, place, progress) if on_estimate else progress,
            )
            model.finish(seen.training.batches(BATCH, place), seen.tuning.batches(BATCH, place))
        run = Run(
            path=folder,
            name=method,
            method=model,
            pipeline=pipeline,
            thresholds={},
            baselines=Baselines.fit(seen.training.images, seen.training.file_sizes()),
            seed=seed,
            data=seen.counts(),
            splits=seen.splits,
            published=_published(recipe, method, model.config, pipeline.config, max_steps),
        )
        run.thresholds.update(_thresholds(run, seen.validation, target_fpr))
        run = replace(run, training_outliers=_outliers(run, seen.training))
        run.save()
        state.remove()
    return load(folder, place)


def _check_numbers(seed: int, max_steps: int | None) -> None:
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed must be a whole number from 0, got {seed!r}")
    if max_steps is not None and (not isinstance(max_steps, int) or max_steps < 1):
        raise InputError(f"max_steps must be a whole number from 1, got {max_steps!r}")


def _preprocess_config(settings: Any, fields: dict[str, Any]) -> PreprocessConfig:
    """Size and channels are the method's; a recipe may repeat them but not contradict."""
    for name in ("image_size", "channels"):
        wanted = getattr(settings, name)
        if fields.get(name, wanted) != wanted:
            raise InputError(
                f"preprocess {name} is {fields[name]!r} but the method's {name} is {wanted!r}: "
                "set the method's"
            )
        fields[name] = wanted
    return PreprocessConfig.from_dict(fields)


def _published(
    recipe: Recipe, method: str, settings: Any, prepared: PreprocessConfig, max_steps: int | None
) -> dict[str, Any] | None:
    """The figures that the recipe gives for this method, and where the run departs from it."""
    if not recipe.published:
        return None
    wanted = to_fields(config_class(method)(**recipe.fields_of(method)))
    wanted |= recipe.preprocess_of(method) | {"max_steps": recipe.max_steps}
    made = prepared.to_dict() | to_fields(settings) | {"max_steps": max_steps}
    changed = [name for name in made if name in wanted and made[name] != wanted[name]]
    return for_run(recipe.name, method, recipe.published, changed)


def _finished(folder: Path, resume: bool, device: torch.device, method: str, seed: int) -> Run:
    if not resume:
        raise InputError(f"{folder} already holds a finished run; choose another folder")
    run = load(folder, device)
    if (run.name, run.seed) != (method, seed):
        raise InputError(
            f"{folder} holds a finished run of {run.name} with seed {run.seed}, not of {method} "
            f"with seed {seed}; choose another folder"
        )
    return run


def _thresholds(run: Run, validation: Cohort, target_fpr: float) -> dict[str, Any]:
    scored = run.score(validation.images)
    return choose(
        scored.anomaly_score,
        maps=scored.anomaly_map,
        target_fpr=target_fpr,
        volumes=validation.case.tolist(),
        patients=validation.patients(),
    )


def _outliers(run: Run, training: Cohort) -> tuple[Outlier, ...]:
    # Batch by batch: the maps of all training images need not fit into memory.
    scores = torch.cat([run.score(batch).anomaly_score for batch in training.batches(BATCH)])
    names = [case.name for case in training.of_slices]
    return most_anomalous(scores, names, training.index.tolist())
