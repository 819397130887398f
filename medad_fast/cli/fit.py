"""``medad fit``: its flags include the configuration fields of the method that is named."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from medad_fast.cli.console import note, printable, say, training_bar, warn
from medad_fast.errors import InputError

if TYPE_CHECKING:
    from medad_fast.artifacts.run import Run
    from medad_fast.training.estimate import Estimate

SHOWN = 50  # training images that are printed; the run's file has all

OWN_FLAGS: tuple[tuple[str, Any, Any, str], ...] = (
    (
        "method",
        str | None,
        None,
        "What to fit; with --help, its fields too. A recipe of one method needs no name.",
    ),
    (
        "data",
        Path,
        inspect.Parameter.empty,
        "A folder (train/normal, validation/normal ...), a manifest.csv or a data.json.",
    ),
    ("out", Path, inspect.Parameter.empty, "Folder for the run."),
    ("seed", int | None, None, "Seed of weights, data order and held-out patients (0)."),
    ("max_steps", int | None, None, "At most this many steps in each stage: a short run."),
    ("device", str, "auto", "auto, cpu, cuda or cuda:NUMBER."),
    ("precision", Literal["float32", "bfloat16"], "float32", "bfloat16 trains under autocast."),
    (
        "target_fpr",
        float,
        0.05,
        "Share of normal images that may be called abnormal: sets the threshold.",
    ),
    ("resume", bool, False, "Go on with the unfinished run in --out."),
    ("config", str | None, None, "Recipe: a YAML file, or the name of a packaged one."),
)


def fit_command(tokens: Sequence[str]) -> Callable[..., int]:
    """The verb for this command line: it has a flag for each field of the method named there.

    Raises:
        InputError: the method that is named does not exist.
    """
    from medad_fast.methods import list_methods

    parameters = [_flag(*flag, "Parameters") for flag in OWN_FLAGS]
    method = _method_for(tokens) if tokens[:1] == ["fit"] else None
    if method is not None:
        from medad_fast.methods import config_class
        from medad_fast.settings import describe

        fields = describe(config_class(method))
        parameters += [_flag(*field, f"Fields of {method}") for field in fields]

    def fit(**given: Any) -> int:
        return _fit(**given)

    fit.__doc__ = (
        "Fit a method on the normal images of a dataset.\n\n"
        f"Methods: {', '.join(list_methods())}; the last ones are baselines. "
        "Flags win over the recipe, the recipe over the defaults. Slices that are "
        "nearly empty are skipped and counted; without a validation split 20 % of the normal "
        "patients are held out for the thresholds."
    )
    # What cyclopts reads. It passes on only the flags that were given.
    vars(fit)["__signature__"] = inspect.Signature(parameters)
    return fit


def _fit(
    *, data: Path, out: Path, method: str | None = None, config: str | None = None, **given: Any
) -> int:
    from medad_fast.verbs.fit import fit

    method = method or _only_method(config)
    with training_bar(method) as progress:
        run = fit(method, data, out, config=config, progress=progress, on_estimate=_tell, **given)
    counts = run.data
    say(
        f"Fitted {method} on {counts['train_images']} normal images "
        f"of {_patients(run.splits, 'train')} patients (seed {run.seed})."
    )
    if tuning := counts.get("tuning_images", 0):
        say(
            f"Tuned on {tuning} normal validation images of {_patients(run.splits, 'tuning')} "
            "patients, which set no threshold."
        )
    score = run.thresholds["score"]
    say(
        f"Threshold {score['threshold']:.4g} from {score['images']} normal validation images of "
        f"{_patients(run.splits, 'validation')} patients "
        f"(expected false-positive rate {score['expected_fpr']:.1%})."
    )
    if not score["target_reached"]:
        warn(
            f"{score['images']} validation images are too few for a false-positive rate of "
            f"{score['target_fpr']:.0%}; the largest score is the threshold"
        )
    skipped = sum(counts.get(f"{split}_skipped", 0) for split in ("train", "tuning", "validation"))
    if skipped:
        say(f"Skipped {skipped} nearly empty slices.")
    _show_outliers(run)
    say(f"Run: {run.path}")
    return 0


def _tell(estimate: Estimate) -> None:
    memory = "memory not known here"
    if estimate.memory_bytes is not None:
        amount = f"{estimate.memory_bytes / 2**20:.0f} MiB"
        on_gpu = estimate.device != "cpu"
        memory = f"{amount} on {estimate.device}" if on_gpu else f"{amount} beside the images"
    note(
        f"stage {estimate.stage_number} ({estimate.stage}): about "
        f"{_duration(estimate.seconds_left)} for the other {estimate.steps - estimate.step} steps, "
        f"peak memory {memory}; later stages and the final scoring come on top"
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _show_outliers(run: Run) -> None:
    found = run.training_outliers
    say(
        f"Most anomalous of the {run.data['train_images']} training images: abnormal ones among "
        "them would be learned as normal."
    )
    for outlier in found[:SHOWN]:
        say(f"  {outlier.anomaly_score:.4g}  {printable(outlier.path)}, slice {outlier.slice}")
    if len(found) > SHOWN:
        say(f"  and {len(found) - SHOWN} more in {run.path / 'training_outliers.json'}")


def _patients(splits: dict[str, Any], split: str) -> int:
    return len({case["patient"] for case in splits.get(split, []) if case["label"] == "normal"})


def _method_for(tokens: Sequence[str]) -> str | None:
    """The method that is named, or else the only one of the recipe that is named."""
    name, recipe = _value(tokens, "--method"), _value(tokens, "--config")
    if name is not None:
        return _known(name)
    if recipe is None:
        return None
    try:
        return _only_method(recipe)
    except InputError:
        return None  # said when the verb runs, after what is wrong with the flags


def _value(tokens: Sequence[str], wanted: str) -> str | None:
    for place, token in enumerate(tokens):
        flag, equals, value = token.partition("=")
        if flag == wanted:
            text = value if equals else "".join(tokens[place + 1 : place + 2])
            return text if text and not text.startswith("-") else None
    return None


def _only_method(recipe: str | None) -> str:
    from medad_fast.recipes import load_recipe

    if recipe is None:
        raise InputError(
            "--method, or a --config with one method, is needed (see medad fit --help)"
        )
    return load_recipe(recipe).only_method()


def _known(name: str) -> str:
    from medad_fast.methods import list_methods

    if name not in list_methods():
        raise InputError(f"--method must be one of {', '.join(list_methods())}, got {name!r}")
    return name


def _flag(name: str, kind: Any, default: Any, text: str, group: str) -> inspect.Parameter:
    # Without negative_iterable each list would get an --empty-... flag of its own.
    parameter = Parameter(help=text, group=group, negative_iterable=())
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, parameter]
    )
