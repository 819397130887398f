"""Plant known faults one at a time and see the tests catch each (slow: minutes).

    python -m python_tests.planted_faults              # all of them
    python -m python_tests.planted_faults barrier int  # those with one of these words in their name
    python -m python_tests.planted_faults --list

Works on a copy of the tree, built without CUDA: what is wrong with a CUDA kernel or its launch is
found by the emulation on the host. Needs what pip needs to build the package.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
OPS = "python_tests/ops"
EVERY = f"{OPS}/test_every_op.py"
LIMIT_S = 600  # for the tests of one fault


@dataclass(frozen=True)
class Fault:
    """An edit that breaks something, and the tests that must notice.

    Attributes:
        name: what is wrong, in a few words.
        file: to edit, below the root.
        old: text that the file has exactly once.
        new: what to put there.
        tests: arguments for pytest.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def compiled(self) -> bool:
        """Whether the extension without CUDA is built from the file."""
        return self.file.endswith((".cpp", ".h")) and "emulation" not in self.file


NATIVE = "medad_fast/ops/_native.py"
DISTANCE = "csrc/ops/patch_discrepancy/distance.cuh"
RESIZE = "csrc/ops/patch_discrepancy/gpu.cu"
ENSEMBLE = "csrc/ops/ensemble_discrepancy"
NCE = "csrc/ops/patch_nce_loss"

FAULTS = [
    # --- where work goes
    Fault(
        "the stream of the current device, not of the tensors'",
        NATIVE,
        "torch.cuda.current_stream(device).cuda_stream",
        "torch.cuda.current_stream().cuda_stream",
        (f"{OPS}/test_native.py",),
    ),
    Fault(
        "a kernel on the default stream",
        RESIZE,
        "dim3(kThreads), 0,\n                 launch.stream, resize);",
        "dim3(kThreads), 0,\n                 nullptr, resize);",
        (f"{OPS}/patch_discrepancy/test_patch_discrepancy_emulated.py",),
    ),
    Fault(
        "a launch on whatever device is current",
        f"{ENSEMBLE}/gpu.cu",
        "  const DeviceGuard guard(launch.device);\n",
        "",
        (f"{OPS}/ensemble_discrepancy/test_ensemble_discrepancy_emulated.py",),
    ),
    Fault(
        "the host waits for the GPU",
        f"{NCE}/gpu.cu",
        "  const DeviceGuard guard(where.device);\n",
        "  const DeviceGuard guard(where.device);\n  cudaDeviceSynchronize();\n",
        (f"{OPS}/patch_nce_loss/test_patch_nce_loss_emulated.py",),
    ),
    Fault(
        "as many threads as the machine has, whatever torch says",
        NATIVE,
        "torch.get_num_threads()",
        "os.cpu_count() or 1",
        (f"{OPS}/test_native.py",),
    ),
    Fault(
        "the interpreter lock is kept",
        "csrc/core/module.cpp",
        "  const py::gil_scoped_release unlocked;\n",
        "",
        (EVERY, "-k", "other_python_threads and ensemble"),
    ),
    # --- threads of a block
    Fault(
        "a missing barrier before the sums of all warps are added",
        DISTANCE,
        "  __syncthreads();\n  const int position = int(threadIdx.x);",
        "  const int position = int(threadIdx.x);",
        (f"{OPS}/patch_discrepancy/test_patch_discrepancy_emulated.py",),
    ),
    Fault(
        "a barrier that some threads have left behind",
        DISTANCE,
        "  __syncthreads();\n  if (!inside) return;",
        "  if (!inside) return;\n  __syncthreads();",
        (f"{OPS}/patch_discrepancy/test_patch_discrepancy_emulated.py",),
    ),
    Fault(
        'a missing barrier between loading a tile and multiplying it',
        "csrc/core/row_tiles.cuh",
        '    __syncthreads();\n    if (from + kDepthStep < depth) load_next(from + kDepthStep);',
        '    if (from + kDepthStep < depth) load_next(from + kDepthStep);',
        (f"{OPS}/patch_nce_loss/test_patch_nce_loss_emulated.py",),
    ),
    Fault(
        'half of a warp in a shuffle of the whole',
        "csrc/core/row_tiles.cuh",
        '__shfl_xor_sync(~0u,',
        '__shfl_xor_sync(0xffffu,',
        (f"{OPS}/nt_xent_loss/test_nt_xent_loss_emulated.py",),
    ),
    Fault(
        "an atomic addition of floats",
        RESIZE,
        "if (column < width) to[column] = sum * resize.scale;",
        "if (column < width) atomicAdd(&to[column], sum * resize.scale);",
        (f"{OPS}/patch_discrepancy/test_patch_discrepancy_emulated.py",),
    ),
    # --- indices
    Fault(
        "a 32-bit index on the GPU",
        DISTANCE,
        "return image * side.batch_stride +",
        "return int(image * side.batch_stride) +",
        (f"{OPS}/patch_discrepancy/test_patch_discrepancy_emulated.py", "-k", "far"),
    ),
    Fault(
        "a 32-bit index on the GPU, between members",
        f"{ENSEMBLE}/gpu.cu",
        "return member * side.member_stride +",
        "return int(member * side.member_stride) +",
        (f"{OPS}/ensemble_discrepancy/test_ensemble_discrepancy_emulated.py", "-k", "far"),
    ),
    Fault(
        "a 32-bit index on the CPU",
        f"{ENSEMBLE}/cpu.cpp",
        "+ image * side.image_stride + first;",
        "+ int32_t(image * side.image_stride) + first;",
        (EVERY, "-k", "far_apart and ensemble"),
    ),
    Fault(
        "one row too many",
        RESIZE,
        "    if (row < resize.height) {",
        "    if (row <= resize.height) {",
        (f"{OPS}/patch_discrepancy/test_patch_discrepancy_emulated.py",),
    ),
    Fault(
        "the last channel is left out",
        DISTANCE,
        "from + share < layer.channels ? from + share : layer.channels;",
        "from + share < layer.channels ? from + share : layer.channels - 1;",
        (f"{OPS}/patch_discrepancy/test_patch_discrepancy_emulated.py",),
    ),
    Fault(
        "a neighbour beyond the edge",
        "csrc/ops/patch_discrepancy/patch_discrepancy.h",
        "if (first >= from - 1) return {from - 1, from - 1, 0.0};",
        "if (first >= from) return {from - 1, from - 1, 0.0};",
        (
            f"{OPS}/patch_discrepancy/test_patch_discrepancy.py",
            f"{OPS}/patch_discrepancy/test_patch_discrepancy_emulated.py",
        ),
    ),
    Fault(
        "vector loads from any address",
        DISTANCE,
        "reinterpret_cast<uintptr_t>(side.data) % sizeof(Four<T>) == 0;",
        "side.data != nullptr;",
        (f"{OPS}/patch_discrepancy/test_patch_discrepancy_emulated.py",),
    ),
    Fault(
        "the remainder of an even split over threads is dropped",
        f"{ENSEMBLE}/cpu.cpp",
        "num_threads(job.threads)\n  for (int64_t task = 0; task < tasks; ++task)",
        "num_threads(job.threads)\n"
        "  for (int64_t task = 0; task < tasks / job.threads * job.threads; ++task)",
        (EVERY, "-k", "number_of_threads and ensemble"),
    ),
    Fault(
        "a halo off by one row",
        "csrc/ops/smooth_saliency/gpu.cu",
        "const int64_t y = top + i / kInputColumns - (kGaussianReach + kMedianReach);",
        "const int64_t y = top + i / kInputColumns - (kGaussianReach + kMedianReach) + 1;",
        (f"{OPS}/smooth_saliency/test_smooth_saliency_emulated.py",),
    ),
    Fault(
        "a border that repeats its edge",
        "csrc/ops/smooth_saliency/smooth_saliency.h",
        "const int64_t period = 2 * (size - 1);",
        "const int64_t period = 2 * size - 1;",
        (f"{OPS}/smooth_saliency/test_smooth_saliency.py",),
    ),
    Fault(
        "the pixel before the one that was drawn",
        "csrc/ops/anatomy_paste/prepare.cuh",
        "int64_t left = place - before, at = begin;",
        "int64_t left = place - before - 1, at = begin;",
        (f"{OPS}/anatomy_paste/test_anatomy_paste_emulated.py",),
    ),
    # --- values
    Fault(
        "mean and standard deviation swapped",
        f"{ENSEMBLE}/cpu.cpp",
        "  run.inter = out;\n  run.intra = out + map;",
        "  run.intra = out;\n  run.inter = out + map;",
        (f"{OPS}/ensemble_discrepancy/test_ensemble_discrepancy.py",),
    ),
    Fault(
        "a deviation over n instead of n - 1",
        f"{ENSEMBLE}/ensemble_discrepancy.h",
        "Real(1) / Real(normal - 1)}",
        "Real(1) / Real(normal)}",
        (f"{OPS}/ensemble_discrepancy/test_ensemble_discrepancy.py",),
    ),
    Fault(
        "corners aligned instead of half-pixel centres",
        "csrc/ops/patch_discrepancy/patch_discrepancy.h",
        "(2 * target + 1) * from - to;",
        "2 * target * from;",
        (f"{OPS}/patch_discrepancy/test_patch_discrepancy.py",),
    ),
    # --- the Python layer
    Fault(
        'contiguous() dropped before the kernel',
        "medad_fast/ops/nt_xent_loss.py",
        'z1, z2 = z1.contiguous(), z2.contiguous()',
        'z1, z2 = z1, z2',
        (EVERY, "-k", "changes_no_bit and nt_xent"),
    ),
    Fault(
        "contiguous() dropped from the upstream gradient",
        "medad_fast/ops/patch_discrepancy/__init__.py",
        "        grad.contiguous(),\n",
        "        grad,\n",
        (EVERY, "-k", "comes_from_above and patch_discrepancy"),
    ),
    Fault(
        'a second derivative that leaves out a part',
        NATIVE,
        'if torch.is_grad_enabled():  # as an op',
        'if False:  # as an op',
        (EVERY, "-k", "second_derivative and patch_nce"),
    ),
    Fault(
        "a formed gradient that forgets what comes from above",
        NATIVE,
        "        elif not _is_one(upstream):",
        "        elif False:",
        (f"{OPS}/test_native.py",),
    ),
    Fault(
        "tensors of two devices in one call",
        "medad_fast/ops/_arguments.py",
        "if value.device != like.device:",
        "if False:",
        (EVERY, "-k", "bad_call and patch_discrepancy"),
    ),
    Fault(
        "a shape that nobody looks at",
        "medad_fast/ops/_arguments.py",
        "if value.shape != shape:",
        "if False:",
        (EVERY, "-k", "bad_call and patch_discrepancy"),
    ),
    Fault(
        'tracing is told another dtype',
        "medad_fast/ops/patch_nce_loss/native.py",
        'query[0].new_empty((), dtype=compute_dtype(query[0])),',
        'query[0].new_empty((), dtype=torch.float64),',
        (f"{OPS}/patch_nce_loss/test_patch_nce_loss_calls.py", "-k", "registration"),
    ),
]  # fmt: skip


def edited(fault: Fault, root: Path) -> str:
    """The file with the fault in it.

    Raises:
        SystemExit: the text to replace is not there exactly once.
    """
    text = (root / fault.file).read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise SystemExit(f"{fault.name}: {fault.file} has its text {text.count(fault.old)} times")
    return text.replace(fault.old, fault.new)


def _run(command: list[str], folder: Path, limit: float = 1800) -> tuple[int, str]:
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=limit, env=environment
        )
    except subprocess.TimeoutExpired:
        return 124, f"not done within {limit} s"
    return done.returncode, done.stdout + done.stderr


def _build(tree: Path) -> None:
    if not (tree / "build").exists():
        pybind11 = _run([sys.executable, "-m", "pybind11", "--cmakedir"], tree)[1].strip()
        status, said = _run(
            ["cmake", "-S", ".", "-B", "build", "-G", "Ninja", "-DMEDAD_CUDA=off",
             "-DSKBUILD_PROJECT_VERSION=0", f"-DPython_EXECUTABLE={sys.executable}",
             f"-Dpybind11_DIR={pybind11}"], tree,
        )  # fmt: skip
        if status:
            raise SystemExit(said)
    status, said = _run(["cmake", "--build", "build"], tree)
    if status:
        raise SystemExit(said)
    for library in (tree / "build").glob("_C*.so"):
        partial = tree / "medad_fast" / f"{library.name}.partial"
        shutil.copy(library, partial)
        partial.replace(tree / "medad_fast" / library.name)


def _outcome(fault: Fault, tree: Path) -> tuple[bool, str]:
    """Whether the tests noticed, and which of them."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *fault.tests]
    status, said = _run(command, tree, LIMIT_S)
    noticed = re.search(r"^(?:FAILED|ERROR) [^ ]*::(\S+)", said, re.MULTILINE)
    if status == 1 and noticed:
        return True, noticed[1]
    if status < 0 or status > 128:
        return True, f"crashed ({status})"
    return False, "every test passed" if status == 0 else f"status {status}: {said[-300:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only faults with one of these in their name")
    parser.add_argument("--list", action="store_true", help="name the faults and stop")
    options = parser.parse_args()
    words = [word.lower() for word in options.words]
    faults = [f for f in FAULTS if not words or any(word in f.name.lower() for word in words)]
    if options.list:
        for fault in faults:
            print(f"{fault.name:60} {fault.file}")
        return
    for fault in faults:
        edited(fault, ROOT)
    caught = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for part in ("csrc", "medad_fast", "python_tests"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("_C*.so"))
        for part in ("CMakeLists.txt", "pyproject.toml"):
            shutil.copy(ROOT / part, tree)
        _build(tree)
        for fault in faults:
            begin = time.monotonic()
            path = tree / fault.file
            sound = path.read_text(encoding="utf-8")
            path.write_text(edited(fault, tree), encoding="utf-8")
            if fault.compiled:
                _build(tree)
            noticed, by = _outcome(fault, tree)
            path.write_text(sound, encoding="utf-8")
            if fault.compiled:
                _build(tree)
            caught += noticed
            seconds = time.monotonic() - begin
            word = "caught" if noticed else "MISSED"
            print(f"{word}  {fault.name:60.60} {seconds:4.0f} s  {by}", flush=True)
    print(f"{caught} of {len(faults)} faults caught")
    sys.exit(caught != len(faults))


if __name__ == "__main__":
    main()
