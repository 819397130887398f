from typing import Any

version: str
with_cuda: bool
cuda_archs: str
cuda_reason: str
openmp: bool
dtypes: dict[str, int]

def cpu_level() -> str: ...
def best_cpu_level() -> str: ...
def set_cpu_level(level: str) -> None: ...
def __getattr__(name: str) -> Any: ...  # what the ops bind, each in its csrc/ops/<op>/bind.cpp
