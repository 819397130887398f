"""Simulated images with exactly known lesions: for the demo, for tests and for benchmarks."""

from medad_fast.simulate.brain import SimulatedSubject, simulate_brain, simulate_subjects
from medad_fast.simulate.brain_slices import simulate_brain_slices
from medad_fast.simulate.chest import simulate_chest
from medad_fast.simulate.fundus import simulate_fundus
from medad_fast.simulate.oct import simulate_oct
from medad_fast.simulate.pairs import SetPlan, SimulatedPair

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
