"""The command ``medad``: one verb a file, and one place where errors become lines."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medad_fast.cli.console import plain_warnings
from medad_fast.errors import InputError, MedadError, MissingExtraError

if TYPE_CHECKING:
    from cyclopts import App

BUG = 1
DISK = 4
INTERRUPTED = 130

VERBS = ("fit", "predict", "evaluate", "report", "compare", "demo", "doctor")

ABOUT = """Unsupervised anomaly detection in medical images.

Fit a method on images of healthy subjects, score new images, and evaluate the scores.
Research software: not for diagnosis.
"""
EPILOGUE = """A first look, with simulated brains: `medad demo --out demo`

Your own images: `medad fit --method patchcl-ae --data DATA --out RUN`, then
`medad predict --run RUN --data DATA --out RESULTS`, then `medad evaluate RESULTS`
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: words of the command line; those of the process where not given.

    Returns:
        The exit code: 0 fine, 1 a bug, 2 bad input or usage, 3 some files failed, 4 device or
        disk, 5 the folder is in use, 6 a damaged run, 130 interrupted.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with plain_warnings():
            return _run(tokens)
    except MedadError as error:
        return _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        return _missing(error)
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted", getattr(error, "exit_code", INTERRUPTED))
    except BrokenPipeError:
        # The reader of our output has gone (`medad ... | head`); Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}", DISK)
    except Exception as error:
        # On a CPU torch raises a RuntimeError, which only its text tells from others.
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            return _fail(
                "out of memory; a fit needs less with a smaller batch_size, width or image_size",
                DISK,
            )
        # The text of a foreign error may hold what stands in a file; its place in the code cannot.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        return _fail(
            f"this is a bug in medad_fast ({where}); set MEDAD_TRACEBACK=1 to see where it "
            "happened, and please report it",
            BUG,
        )


def _missing(error: ModuleNotFoundError) -> int:
    try:
        told = MissingExtraError.of(error, "medad")
    except ModuleNotFoundError:
        return _fail(f"the installation is incomplete: {error}", BUG)
    return _fail(str(told), told.exit_code)


def _run(tokens: list[str]) -> int:
    from cyclopts import CycloptsError

    try:
        result = _app(tokens)(
            tokens, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        raise InputError(f"{_sentence(error)} (see medad {_verb(tokens)}--help)") from error
    return result if isinstance(result, int) else 0


def _app(tokens: list[str]) -> App:
    from cyclopts import App

    from medad_fast.cli.compare import compare
    from medad_fast.cli.demo import demo
    from medad_fast.cli.doctor import doctor
    from medad_fast.cli.evaluate import evaluate
    from medad_fast.cli.fit import fit_command
    from medad_fast.cli.predict import predict
    from medad_fast.cli.report import report

    app = App(
        name="medad",
        help=ABOUT,
        help_epilogue=EPILOGUE,
        help_format="markdown",
        version=_version,
        # cyclopts would exit by itself, silently and always with 130.
        suppress_keyboard_interrupt=False,
    )
    commands: tuple[Callable[..., int], ...] = (
        fit_command(tokens),
        predict,
        evaluate,
        report,
        compare,
        demo,
        doctor,
    )
    for place, (verb, command) in enumerate(zip(VERBS, commands, strict=True)):
        app.command(App(name=verb, sort_key=place, help_epilogue="")).default(command)
    return app


def _version() -> str:
    import medad_fast

    return f"medad {medad_fast.__version__}"


def _verb(tokens: list[str]) -> str:
    return f"{tokens[0]} " if tokens and tokens[0] in VERBS else ""


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _fail(message: str, code: int) -> int:
    if os.environ.get("MEDAD_TRACEBACK"):
        traceback.print_exc()
    print(f"medad: error: {' '.join(message.split())}", file=sys.stderr)
    return code
