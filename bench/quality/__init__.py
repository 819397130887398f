"""The quality benchmark: every method on every simulated set, within a fixed budget of time."""
