"""Simulated images with exactly known lesions: for the demo, for tests and for benchmarks."""

from bench.quality.sets.brain_slices import simulate_brain_slices
from bench.quality.sets.chest import simulate_chest
from bench.quality.sets.fundus import simulate_fundus
from bench.quality.sets.oct import simulate_oct
from bench.quality.sets.pairs import SetPlan, SimulatedPair
from medad_fast.demo.brain import SimulatedSubject, simulate_brain, simulate_subjects

__all__ = [
    "SetPlan",
    "SimulatedPair",
    "SimulatedSubject",
    "simulate_brain",
    "simulate_brain_slices",
    "simulate_chest",
    "simulate_fundus",
    "simulate_oct",
    "simulate_subjects",
]
