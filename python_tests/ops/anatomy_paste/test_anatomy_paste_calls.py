"""Anatomy paste: its parameters as a struct, and how it is known to torch."""

from __future__ import annotations

import pytest
import torch

from medad_fast import _C
from medad_fast.errors import InputError
from medad_fast.ops import AnatomyPasteParams, anatomy_paste, anatomy_paste_reference
from python_tests.ops.anatomy_paste.test_anatomy_paste import make_call, on, params_of


def test_params_are_tensors_that_move_together():
    params = AnatomyPasteParams.sample(4, 64, generator=torch.Generator().manual_seed(0))
    assert len(params) == 4
    assert params.device == torch.device("cpu")
    assert params.width.dtype == torch.int64
    assert params.sigma.dtype == torch.float64
    assert params.centre.shape == params.source_corner.shape == (4, 2)
    moved = params.to("meta")
    assert moved.device.type == moved.opacity.device.type == "meta"
    assert torch.equal(params[1:3].sigma, params.sigma[1:3])
    with pytest.raises(AttributeError, match="depth"):
        params.depth  # noqa: B018


def test_params_take_other_kinds_of_numbers():
    params = params_of(sigma=torch.tensor(3), opacity=torch.tensor(0.5, dtype=torch.float16))
    assert params.sigma.item() == 3.0
    assert params.opacity.item() == 0.5
    assert params.centre.tolist() == [[10, 8]]
    assert params.source_index.tolist() == [-1]
    assert params.contrast.tolist() == [1.0]


def test_packed_params_are_checked():
    params = params_of()
    with pytest.raises(InputError, match=r"^integers"):
        AnatomyPasteParams.packed(params.integers[:, :12], params.reals)
    with pytest.raises(InputError, match=r"^reals"):
        AnatomyPasteParams.packed(params.integers, params.reals.float())


def test_drawing_needs_no_generator():
    torch.manual_seed(3)
    first = AnatomyPasteParams.sample(2, (64, 48))
    torch.manual_seed(3)
    again = AnatomyPasteParams.sample(2, (64, 48))
    assert torch.equal(first.reals, again.reals)


def _raw_view(tensor, **changes):
    view = {"data": tensor.data_ptr(), "dtype": _C.dtypes[str(tensor.dtype)[6:]]}
    view |= {"shape": tuple(tensor.shape), "strides": tensor.stride()} | changes
    return tuple(view.values())


def test_the_extension_checks_again():
    images, masks, params = make_call(2, 1, (32, 40), torch.float32)
    names = ("images", "masks", "sources", "integers", "reals", "out", "gate")
    good = (images, masks, None, params.integers, params.reals, images.clone(), images.clone())
    tensors = dict(zip(names, good, strict=True))

    def call(exact=False, **changed):
        views = {name: None if t is None else _raw_view(t) for name, t in tensors.items()} | changed
        order = [views[name] for name in names[:5]]
        tail = [None, views["out"], views["gate"], (-1, 0, 1)]
        _C.anatomy_paste(*order, exact, *tail)

    call()
    for name in ("images", "masks", "integers", "reals", "out", "gate"):
        tensor = tensors[name]
        shape, strides = tuple(tensor.shape), tensor.stride()
        for changes in (
            {"shape": (3, *shape[1:])},
            {"shape": (*shape[:-1], shape[-1] + 1)},
            {"shape": shape[:-1], "strides": strides[:-1]},
            {"dtype": _C.dtypes["int64" if name != "integers" else "float64"]},
            {"strides": (*strides[:-1], 2)},
        ):
            with pytest.raises((ValueError, TypeError)):
                call(**{name: _raw_view(tensor, **changes)})
    with pytest.raises(ValueError, match="exact"):
        call(exact=True)
    with pytest.raises(ValueError, match="sources"):
        call(sources=_raw_view(images.repeat(1, 2, 1, 1)))
    for column, value in ((0, 0), (1, 99), (5, -1), (6, 40), (12, 2), (12, -2)):
        bad = params.integers.clone()
        bad[1, column] = value
        with pytest.raises(ValueError, match="params"):
            call(integers=_raw_view(bad))


@pytest.mark.parametrize("exact", [False, True])
def test_registration(exact, device):
    dtype = torch.uint8 if exact else torch.float32
    images, masks, params = on(device, *make_call(2, 1, (24, 20), dtype))
    op = torch.ops.medad_fast.anatomy_paste.default
    sources = None if exact else images.clone()
    torch.library.opcheck(op, (images, masks, sources, params.integers, params.reals, exact))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_compiles_without_a_break(dtype, device):
    images, masks, params = on(device, *make_call(3, 1, (24, 20), dtype))

    def augmented(images, masks, params):
        result = anatomy_paste(images, masks, params)
        return result.images.float() * 2, result.gate

    compiled = torch.compile(augmented, fullgraph=True, backend="aot_eager")
    expected = augmented(images, masks, params)
    for a, b in zip(compiled(images, masks, params), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("op", [anatomy_paste, anatomy_paste_reference])
def test_autocast_casts_nothing(op, device):
    images, masks, params = on(device, *make_call(3, 2, (24, 20), torch.float32))
    expected = op(images, masks, params)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        result = op(images, masks, params)
    assert torch.equal(result.images, expected.images)
    assert torch.equal(result.gate, expected.gate)


def test_backward_is_refused(device):
    images, masks, params = on(device, *make_call(2, 1, (24, 20), torch.float32))
    result = anatomy_paste(images.requires_grad_(), masks, params)
    with pytest.raises(RuntimeError, match="no gradient"):
        result.images.sum().backward()


def test_inputs_are_left_alone(device):
    images, masks, params = on(device, *make_call(3, 2, (40, 37), torch.float32))
    before = [t.clone() for t in (images, masks, params.integers, params.reals)]
    anatomy_paste(images, masks, params)
    after = (images, masks, params.integers, params.reals)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.slow
def test_more_than_2_to_the_31_elements():
    side = 32768
    images = torch.zeros(3, 1, side, side, dtype=torch.uint8)
    images[2, 0, -1, -1] = 9
    params = params_of(
        3,
        width=3,
        height=3,
        source_corner=(side - 3, side - 3),
        centre=(side - 6, side - 6),
        sigma=0.0,
    )
    result = anatomy_paste(images, None, params, exact=True)
    assert result.images[2, 0, side - 5, side - 5] == 9
    assert result.images[2, 0, -1, -1] == 9
    assert result.images.count_nonzero() == 2
    assert result.gate.count_nonzero() == 27
