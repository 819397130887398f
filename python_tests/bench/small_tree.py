"""A few files laid out as the repository, whose digest is taken as they change."""

from __future__ import annotations

import textwrap
from pathlib import Path

from bench.quality.source import Tree

FILES = {
    "medad_fast/__init__.py": '"""Lists."""\n',
    "medad_fast/methods/__init__.py": "PLACES = {}\n",
    "medad_fast/methods/parts/__init__.py": "",
    "medad_fast/methods/parts/score.py": """
        \"\"\"Scores.\"\"\"
        from __future__ import annotations

        import math as maths

        __all__ = ["largest", "smooth"]

        WIDTH: int = 3


        def smooth(values: list[float], width: int = WIDTH) -> list[float]:
            \"\"\"Blur.\"\"\"
            if width < 1:
                raise ValueError(f"width must be at least 1, got {width}")
            return [value / width for value in values]  # a share


        def largest(values):
            return maths.sqrt(max(smooth(values)))
        """,
    "medad_fast/methods/knn.py": """
        from typing import TYPE_CHECKING
        from medad_fast.methods.parts.score import largest
        from medad_fast.ops import _native, distance

        if TYPE_CHECKING:
            from medad_fast.report.page import Page


        class Config:
            width: int = 3
            depth: int = setting(1, "of the bank", ge=1)


        def predict(images):
            from medad_fast.data.reading import read

            return _native.call(distance, largest(read(images)))
        """,
    "medad_fast/data/reading.py": """
        from medad_fast.data.formats.dicom import read_dicom
        from medad_fast.data.formats.picture import read_picture
        from medad_fast.errors import InputError


        def read(path):
            if path.endswith(".dcm"):
                return read_dicom(path)
            return read_picture(path)
        """,
    "medad_fast/data/formats/dicom.py": "def read_dicom(path):\n    return path * 2\n",
    "medad_fast/data/formats/picture.py": "def read_picture(path):\n    return path + 1\n",
    "medad_fast/errors.py": "class InputError(Exception):\n    code = 1\n",
    "medad_fast/report/page.py": "class Page:\n    pass\n",
    "medad_fast/ops/__init__.py": """
        from medad_fast.ops.distance import distance
        from medad_fast.ops.blur import blur
        """,
    "medad_fast/ops/_native.py": "def call(op, values):\n    return op(values)\n",
    "medad_fast/ops/distance.py": "def distance(values):\n    return values - 1\n",
    "medad_fast/ops/blur.py": "def blur(values):\n    return values / 2\n",
    "csrc/bindings.cpp": "int modules = 1;\n",
    "csrc/core/simd.h": """
        #pragma once
        #include <cstdint>
        namespace medad {
        // Sums.
        #ifdef WIDE
        constexpr int kLanes = 8;
        #else
        constexpr int kLanes = 4;
        #endif
        inline float add(float a, float b) { return a + b; }
        }  // namespace medad
        """,
    "csrc/core/tile.cuh": "__device__ int tile = 1;\n",
    "csrc/emulation/fiber.h": "int fiber = 1;\n",
    "csrc/ops/distance/distance.h": "struct Job { int size = 1; };\n",
    "csrc/ops/distance/cpu.cpp": """
        #include "ops/distance/distance.h"
        namespace medad::MEDAD_ISA {
        template <class T>
        T square(T x) { return x * x; }
        const char* kName = "a // b";
        void run(const Job& job) { for (int i = 0; i < job.size; ++i) square(i); }
        }
        """,
    "csrc/ops/distance/options.cmake": "set_source_files_properties(COMPILE_OPTIONS -O2)\n",
    "csrc/ops/distance/gpu.cu": "__global__ void run(int x) {}\n",
    "csrc/ops/blur/cpu.cpp": "int blur(int x) { return x / 2; }\n",
    "CMakeLists.txt": "target_compile_options(m INTERFACE -Wall -ffp-contract=off)  # why\n",
}


class SmallTree:
    """Digests of the method ``knn``, whose entry is ``medad_fast.methods.knn``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in FILES.items():
            self.write(name, textwrap.dedent(text))
        self.before = self.digest()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def move(self, old: str, new: str) -> None:
        (self.root / new).parent.mkdir(parents=True, exist_ok=True)
        (self.root / old).rename(self.root / new)

    def digest(self) -> str:
        return Tree(self.root).digest(["medad_fast.methods.knn"])

    def reached(self) -> tuple[str, ...]:
        return Tree(self.root).reached(["medad_fast.methods.knn"])
