"""Exact arithmetic is asked for on a GPU only, and everything is as it was afterwards."""

from __future__ import annotations

import os

import pytest
import torch

from medad_fast.methods import list_methods
from medad_fast.training.device import WORKSPACE, exact_arithmetic
from medad_fast.verbs.fit import fit
from python_tests.methods.small import SMALL
from python_tests.verbs.fit.small_fits import same_weights, write_pictures

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


def settings():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "float32": [kind.fp32_precision for kind in (cudnn.conv, cudnn.rnn, matmul)],
        "cudnn": (cudnn.deterministic, cudnn.benchmark),
        "algorithms": torch.get_deterministic_debug_mode(),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "workspace": os.environ.get(WORKSPACE),
    }


@pytest.fixture(params=[False, True], ids=["defaults", "the user's"])
def before(request, monkeypatch):
    """Settings as torch has them, or as somebody chose them, one and all."""
    monkeypatch.delenv(WORKSPACE, raising=False)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    benchmark, precisions = cudnn.benchmark, (cudnn.conv.fp32_precision, matmul.fp32_precision)
    if request.param:
        monkeypatch.setenv(WORKSPACE, ":16:8")
        cudnn.benchmark, cudnn.conv.fp32_precision, matmul.fp32_precision = True, "ieee", "tf32"
    yield settings()
    cudnn.benchmark = benchmark
    cudnn.conv.fp32_precision, matmul.fp32_precision = precisions


def test_on_a_gpu_it_is_exact_and_repeatable_until_the_block_ends(before):
    with exact_arithmetic(GPU):
        inside = settings()
        tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    assert tf32 == (False, False)
    assert "tf32" not in inside.pop("float32")
    assert inside == {
        "cudnn": (True, False),
        "algorithms": 1,
        "filled": False,
        "workspace": before["workspace"] or ":4096:8",
    }
    assert settings() == before


def test_an_error_within_leaves_nothing_behind(before):
    with pytest.raises(ZeroDivisionError), exact_arithmetic(GPU):
        raise ZeroDivisionError
    assert settings() == before


def test_blocks_may_be_nested(before):
    with exact_arithmetic(GPU):
        with exact_arithmetic(GPU):
            pass
        assert "tf32" not in settings()["float32"]
    assert settings() == before


def test_on_a_cpu_nothing_changes(before):
    with exact_arithmetic(CPU):
        assert settings() == before


@pytest.mark.gpu
@pytest.mark.parametrize("name", list_methods())
def test_the_same_fit_on_a_gpu_has_the_same_bits(name, tmp_path):
    write_pictures(tmp_path / "data/train/normal", 10, 1)
    write_pictures(tmp_path / "data/train/unlabeled", 5, 4)
    write_pictures(tmp_path / "data/validation/normal", 4, 2)
    fields = {**SMALL[name], "image_size": 32}
    runs = [
        fit(name, tmp_path / "data", tmp_path / out, device="cuda", max_steps=20, **fields)
        for out in "ab"
    ]
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert runs[0].thresholds == runs[1].thresholds
