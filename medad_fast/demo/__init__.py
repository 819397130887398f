"""The simulated brains of ``medad demo``."""
