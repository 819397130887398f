"""Which code a record of the quality benchmark depends on: all that can change a score."""

from __future__ import annotations

import ast
import re
import shutil

import pytest

from bench.quality import plan
from bench.quality.normal import cpp_declarations
from bench.quality.simulated import SETS
from bench.quality.source import ROOT, Tree
from medad_fast.methods import config_class, list_methods
from python_tests.bench.small_tree import SmallTree

SCORE = "medad_fast/methods/parts/score.py"
KNN = "medad_fast/methods/knn.py"
DISTANCE = "csrc/ops/distance/cpu.cpp"
SIMD = "csrc/core/simd.h"


@pytest.fixture
def tree(tmp_path):
    return SmallTree(tmp_path)


def test_what_is_imported_is_followed_wherever_the_import_stands_and_lists_only_by_name(tree):
    assert tree.reached() == (
        "medad_fast.data.formats.picture",
        "medad_fast.data.reading",
        "medad_fast.methods.knn",
        "medad_fast.methods.parts.score",
        "medad_fast.ops._native",
        "medad_fast.ops.distance",
    )
    with pytest.raises(ModuleNotFoundError, match="no_such is not under"):
        Tree(tree.root).digest(["medad_fast.no_such"])


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (SCORE, "value / width", "value * width"),
        (SCORE, "WIDTH: int = 3", "WIDTH: int = 4"),
        (SCORE, "width < 1", "width < 2"),
        (SCORE, "import math as maths", "import cmath as maths"),
        (KNN, "setting(1", "setting(2"),
        (KNN, "width: int = 3", "width: float = 3"),  # fields are converted to what they say
        ("medad_fast/data/formats/picture.py", "path + 1", "path + 1.0"),
        ("medad_fast/data/reading.py", '".dcm"', '".dc"'),
        ("medad_fast/ops/_native.py", "op(values)", "op(values, values)"),
        ("medad_fast/ops/distance.py", "values - 1", "values + 1"),
        ("medad_fast/ops/__init__.py", "distance import distance", "blur import blur as distance"),
        ("csrc/bindings.cpp", "= 1", "= 2"),
        (SIMD, "a + b", "a - b"),
        (SIMD, "#ifdef WIDE", "#ifndef WIDE"),
        (DISTANCE, "x * x", "x + x"),
        (DISTANCE, "a // b", "a // c"),
        (DISTANCE, "T square(T x)", "T square(T& x)"),
        ("csrc/ops/distance/distance.h", "size = 1", "size = 2"),
        ("CMakeLists.txt", "-ffp-contract=off", "-ffast-math"),
        ("csrc/ops/distance/options.cmake", "-O2", "-Ofast"),
    ],
)
def test_what_can_change_a_score_changes_the_digest(tree, name, old, new):
    tree.replace(name, old, new)
    assert tree.digest() != tree.before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (SCORE, '"""Blur."""', '"""Blur well."""'),
        (SCORE, "# a share", "# another"),
        (SCORE, '"largest", "smooth"', '"smooth"'),
        (SCORE, "width: int = WIDTH", "width=WIDTH"),
        (SCORE, "WIDTH: int = 3", "WIDTH = 3"),
        (SCORE, "must be at least 1, got {width}", "too small"),
        (
            SCORE,
            "[value / width for value in values]",
            "[\n        (value / width)\n  for value in values]",
        ),
        (KNN, "report.page import Page", "report.page import Other"),
        (KNN, '"of the bank"', '"of the bank, in layers"'),
        ("medad_fast/data/formats/dicom.py", "path * 2", "path * 3"),
        ("medad_fast/errors.py", "code = 1", "code = 2"),
        ("medad_fast/methods/__init__.py", "{}", "{1: 2}"),
        ("medad_fast/ops/blur.py", "values / 2", "values / 3"),
        (SIMD, "// Sums.", "/* Adds\n two. */"),
        (SIMD, "#include <cstdint>\n", ""),
        (SIMD, "{ return a + b; }", "{\n  return a+b;  // both\n}"),
        (SIMD, "constexpr int kLanes = 8;", "constexpr int\n  kLanes = 8;"),
        (DISTANCE, '#include "ops/distance/distance.h"', '#include "ops/distance.h"'),
        ("csrc/ops/distance/gpu.cu", "int x", "int y"),
        ("csrc/core/tile.cuh", "= 1", "= 2"),
        ("csrc/emulation/fiber.h", "= 1", "= 2"),
        ("csrc/ops/blur/cpu.cpp", "x / 2", "x / 3"),
        ("CMakeLists.txt", "# why", "# -Wextra"),
    ],
)
def test_what_cannot_change_a_score_does_not(tree, name, old, new):
    tree.replace(name, old, new)
    assert tree.digest() == tree.before


def test_a_file_may_be_moved_to_another_room(tree):
    tree.move("medad_fast/data/reading.py", "medad_fast/files/read_files.py")
    tree.replace(KNN, "medad_fast.data.reading", "medad_fast.files.read_files")
    tree.move("csrc/ops/distance/distance.h", "csrc/ops/distance/parts/job.h")
    tree.move("csrc/core/simd.h", "csrc/core/cpu/vectors.h")
    assert tree.digest() == tree.before


def test_a_file_may_be_cut_in_two_and_joined_again(tree):
    whole = (tree.root / SCORE).read_text()
    start = whole.index("def largest")
    tree.write("medad_fast/methods/parts/top.py", f"import math as maths\n{whole[start:]}")
    tree.replace(
        "medad_fast/methods/parts/top.py",
        "import math as maths",
        "import math as maths\nfrom medad_fast.methods.parts.score import smooth",
    )
    tree.write(SCORE, whole[:start].replace("import math as maths\n", ""))
    tree.replace(KNN, "parts.score import largest", "parts.top import largest")
    assert "medad_fast.methods.parts.top" in tree.reached()
    assert tree.digest() == tree.before
    text = (tree.root / DISTANCE).read_text()
    parts = text.partition("const char*")
    tree.write("csrc/ops/distance/square.h", f"#pragma once\n{parts[0]}}}\n")
    tree.write(DISTANCE, "namespace medad {\n" + "".join(parts[1:]))
    assert tree.digest() == tree.before


def test_a_function_may_be_moved_to_another_module_however_it_is_called(tree):
    tree.write(
        KNN,
        (tree.root / KNN)
        .read_text()
        .replace(
            "import _native, distance", "import distance\nfrom medad_fast.ops.kernels import call"
        )
        .replace("_native.call", "call"),
    )
    tree.move("medad_fast/ops/_native.py", "medad_fast/ops/kernels.py")
    assert tree.digest() == tree.before


def test_an_op_brings_the_op_that_it_includes(tree):
    include = '#include "ops/blur/blur.h"\n'
    tree.write(DISTANCE, include + (tree.root / DISTANCE).read_text())
    one = tree.digest()
    assert one != tree.before
    tree.replace("csrc/ops/blur/cpu.cpp", "x / 2", "x / 3")
    assert tree.digest() != one


def test_the_same_name_from_another_module_is_another_digest(tree):
    both = "medad_fast/data/two.py"
    tree.write(both, "def read_picture(path):\n    return path + 2\n")
    tree.replace(
        "medad_fast/data/reading.py",
        "import InputError",
        "import InputError\nfrom medad_fast.data import two",
    )
    one = tree.digest()
    tree.replace("medad_fast/data/reading.py", "formats.picture import", "two import")
    tree.replace(
        "medad_fast/data/reading.py",
        "from medad_fast.data import two",
        "from medad_fast.data.formats import picture",
    )
    assert len(tree.reached()) == 7
    assert tree.digest() != one


def test_the_declarations_of_a_cpp_file_are_those_that_stand_in_its_namespaces():
    text = """
        #pragma once
        namespace a { namespace {
        struct S { int x = 1'000; char c = '"'; };
        int f(int x) { if (x) { return 1; } return 0; }
        }}
        #define TWICE(x) \\
          ((x) + (x))
        #if A
        int g() {
        #else
        int h() {
        #endif
        return 1; }
        """
    assert cpp_declarations(text) == (
        "struct S { int x = 1'000 ; char c = '\"' ; } ;",
        "int f ( int x ) { if ( x ) { return 1 ; } return 0 ; }",
        "\n#define TWICE(x) ((x) + (x))\n",
        "\n#if A\n int g ( ) { \n#else\n int h ( ) { \n#endif\n",
        "return 1 ;",
    )


# The repository itself


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Of the sources, with the digest of PatchCL-AE on the set brain."""
    root = tmp_path_factory.mktemp("copy")
    unwanted = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("medad_fast", "csrc", "bench/quality"):
        shutil.copytree(ROOT / name, root / name, ignore=unwanted)
    shutil.copy(ROOT / "CMakeLists.txt", root)
    return root


def digest(root):
    return Tree(root).digest(plan.entries("patchcl-ae", "brain"))


def digests_of_changes(root, changes):
    """The digest after each change of one file, which is undone."""
    for path, text in changes:
        before = path.read_text()
        path.write_text(text)
        yield path, digest(root)
        path.write_text(before)


def with_another_operator(text):
    """Python code with the first operator that it computes a number with changed, or ``None``."""
    lines = text.splitlines(keepends=True)
    other = {"+": "-", "*": "/", "/": "*"}
    tree = ast.parse(text)
    unseen = {
        each
        for node in ast.walk(tree)
        if isinstance(node, (ast.Raise, ast.JoinedStr))
        for each in ast.walk(node)
    }
    for node in ast.walk(tree):
        known = isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult, ast.Div))
        if known and node not in unseen and node.left.end_lineno == node.right.lineno:
            line = lines[node.right.lineno - 1]
            between = line[node.left.end_col_offset : node.right.col_offset]
            changed = "".join(other.get(letter, letter) for letter in between)
            lines[node.right.lineno - 1] = (
                line[: node.left.end_col_offset] + changed + line[node.right.col_offset :]
            )
            return "".join(lines)
    return None


def test_an_operator_in_an_ops_or_the_shared_cpp_changes_the_digest_and_a_comment_does_not(copy):
    before = digest(copy)
    files = [*copy.glob("csrc/ops/patch_discrepancy/**/*"), *copy.glob("csrc/core/**/*")]
    texts = {path: path.read_text() for path in files if path.suffix in (".h", ".cpp")}
    changes = {
        path: re.sub(r"^([^/#\n]*\w) [-+*] (?=\w)", r"\1 % ", text, count=1, flags=re.M)
        for path, text in texts.items()
    }
    changes = {path: text for path, text in changes.items() if text != texts[path]}
    assert {path.parent.name for path in changes} == {"patch_discrepancy", "core"}
    for path, found in digests_of_changes(copy, changes.items()):
        assert found != before, path
    for path, text in texts.items():
        path.write_text(f"// Another word.\n{text}/* end */")
    assert digest(copy) == before


def test_an_operator_in_a_methods_own_code_changes_the_digest(copy):
    before = digest(copy)
    modules = Tree(copy).reached(plan.entries("patchcl-ae", "brain"))
    rooms = ("medad_fast.methods.", "medad_fast.nets.", "medad_fast.ops.")
    paths = [copy / f"{name.replace('.', '/')}.py" for name in modules if name.startswith(rooms)]
    changes = {
        path: text
        for path in paths
        if path.is_file() and (text := with_another_operator(path.read_text())) is not None
    }
    assert len(changes) > 8
    for path, found in digests_of_changes(copy, changes.items()):
        assert found != before, path


def test_a_room_and_an_ops_files_may_be_moved(copy, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(copy, moved)
    (moved / "medad_fast/nets").rename(moved / "medad_fast/methods/networks")
    for path in moved.glob("**/*.py"):
        text = path.read_text()
        path.write_text(text.replace("medad_fast.nets", "medad_fast.methods.networks"))
    op = moved / "csrc/ops/patch_discrepancy"
    (op / "cpu").mkdir()
    for path in list(op.glob("*.h")):
        path.rename(op / "cpu" / f"moved_{path.name}")
    names = Tree(moved).reached(plan.entries("patchcl-ae", "brain"))
    assert "medad_fast.methods.networks.discriminator" in names
    assert digest(moved) == digest(copy)


@pytest.mark.parametrize("method", list_methods())
def test_all_that_can_change_a_methods_scores_is_followed(method):
    entries = plan.entries(method, "oct")
    modules = Tree().reached(entries)
    kinds = ("Config", "_png_depth", "Pipeline", "train", "fit", "predict", "evaluate", "rank")
    places = [ROOT / name.replace(".", "/") for name in modules]
    files = [place.with_suffix(".py") for place in places if not place.is_dir()]
    text = "\n".join(path.read_text() for path in files)
    for kind in kinds:
        assert re.search(rf"^(def|class) \w*{kind}\b", text, re.M), kind
    assert config_class(method).__module__ in modules
    assert SETS["oct"].module in modules
    assert SETS["chest"].module not in modules
    others = {config_class(name).__module__ for name in list_methods()}
    assert others.intersection(modules) == {config_class(method).__module__}
    assert not [name for name in modules if re.search(r"\.(cli|report|dicom)", name)]
