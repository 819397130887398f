"""Every op, forward and backward, in an environment with nothing but torch and numpy.

    python python_tests/smoke_ops.py

For an installation without extras: unlike the tests it runs what is installed, not the checkout.
"""

from __future__ import annotations

import sys
from importlib.metadata import requires
from pathlib import Path

import medad_fast.ops

sys.path.append(str(Path(__file__).parents[1]))  # last: the installed package comes first


def main() -> None:
    from python_tests.ops.cases import all_cases, flat
    from python_tests.ops.run_case import outcome

    for case in all_cases():
        results = flat(outcome(case, case.tensors()))
        assert results, case.name
        print(f"{case.name}: {len(results)} tensors, {len(case.gradients)} gradients")
    ops = {name.removesuffix("_reference") for name in medad_fast.ops.__all__ if "_ref" in name}
    assert {case.op for case in all_cases()} == ops
    needed = [each for each in requires("medad-fast") or [] if "extra ==" not in each]
    assert sorted(needed) == ["numpy>=1.26", "torch>=2.10"], needed
    came = {"scipy", "skimage", "pydantic", "yaml", "safetensors", "PIL"} & set(sys.modules)
    assert not came, came


if __name__ == "__main__":
    main()
