"""Simulated images with exactly known lesions: for the demo, for tests and for benchmarks."""

from medad_fast.simulate.brain import SimulatedSubject, simulate_brain, simulate_subjects

__all__ = ["SimulatedSubject", "simulate_brain", "simulate_subjects"]
