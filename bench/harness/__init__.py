"""Time several ways of computing the same thing, side by side, and quote only what stands.

A benchmark file names points and candidates; everything else is here. ``measure`` compares the
candidates at one point, ``turns`` takes the times, ``machine`` knows the computer and who else uses
it, ``record`` holds and writes the figures, ``suite`` makes a test and a command of a file.
docs/benchmarks.md says how the figures come about and when they are refused.
"""

from bench.harness.measure import compare
from bench.harness.record import Candidate, Comparison, Result, Row
from bench.harness.suite import Benchmark, parse_arguments

__all__ = ["Benchmark", "Candidate", "Comparison", "Result", "Row", "compare", "parse_arguments"]
