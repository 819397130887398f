"""ResNet-18 is the common one: names, sizes, and what it does to grey images."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from medad_fast.errors import InputError
from medad_fast.nets.resnet import ResNet18


def norm(name, width):
    sizes = {part: (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.{part}": size for part, size in {**sizes, "num_batches_tracked": ()}.items()}


def published_shapes():
    """Names and shapes of the published files, written down independently of the network."""
    shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    inputs = 64
    for layer, outputs in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            first = inputs if block == 0 else outputs
            shapes |= {f"{name}.conv1.weight": (outputs, first, 3, 3)} | norm(
                f"{name}.bn1", outputs
            )
            shapes |= {f"{name}.conv2.weight": (outputs, outputs, 3, 3)}
            shapes |= norm(f"{name}.bn2", outputs)
            if layer > 1 and block == 0:
                shapes |= {f"{name}.downsample.0.weight": (outputs, inputs, 1, 1)}
                shapes |= norm(f"{name}.downsample.1", outputs)
        inputs = outputs
    return shapes | {"fc.weight": (1000, 512), "fc.bias": (1000,)}


def write_published(path, seed=0, **changes):
    rng = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.tensor(7) if shape == () else torch.rand(shape, generator=rng) + 0.01
        for name, shape in published_shapes().items()
    }
    tensors = {k: v for k, v in {**tensors, **changes}.items() if v is not None}
    save_file(tensors, path)
    return tensors


def test_names_and_shapes_are_the_published_ones():
    expected = {k: v for k, v in published_shapes().items() if not k.startswith("fc.")}
    found = {name: tuple(value.shape) for name, value in ResNet18().state_dict().items()}
    assert found == expected
    assert len(published_shapes()) == 122


def test_parameter_count_is_the_papers():
    # 11,689,512 with the classifier for 1000 classes
    assert sum(p.numel() for p in ResNet18().parameters()) == 11_689_512 - 513_000 == 11_176_512


def test_it_computes_what_the_common_one_computes():
    torch.manual_seed(0)
    net = ResNet18(4).eval()
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    state, x = net.state_dict(), torch.randn(2, 3, 48, 48)

    def bn(y, name):
        mean, var, weight, bias = (
            state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / (var + 1e-5).sqrt() * weight + bias

    y = F.conv2d(x, state["conv1.weight"], stride=2, padding=3)
    y = F.max_pool2d(bn(y, "bn1").relu(), 3, 2, 1)
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            z = F.conv2d(y, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            z = F.conv2d(bn(z, f"{name}.bn1").relu(), state[f"{name}.conv2.weight"], padding=1)
            if stride == 2:
                y = F.conv2d(y, state[f"{name}.downsample.0.weight"], stride=2)
                y = bn(y, f"{name}.downsample.1")
            y = (bn(z, f"{name}.bn2") + y).relu()
    torch.testing.assert_close(net(x), y.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_a_grey_image_is_three_equal_channels():
    torch.manual_seed(0)
    net = ResNet18(8).eval()
    grey = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(net(grey), net(grey.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [32, 48, 80])
def test_stages_halve_the_sides_rounding_up(size):
    sides = [stage.shape[-1] for stage in ResNet18(4).stages(torch.rand(2, 1, size, size))]
    assert sides == [-(-size // 2**halvings) for halvings in (1, 2, 3, 4, 5)]
    assert len(ResNet18(4).stages(torch.rand(2, 1, size, size), depth=2)) == 3


def test_published_weights_load_and_the_classifier_is_left_out(tmp_path):
    tensors = write_published(tmp_path / "resnet18.safetensors")
    net = ResNet18()
    net.load_published(tmp_path / "resnet18.safetensors")
    for name, value in net.state_dict().items():
        assert torch.equal(value, tensors[name]), name


def test_files_from_before_batches_were_counted_load_too(tmp_path):
    gone = {name: None for name in published_shapes() if name.endswith("num_batches_tracked")}
    write_published(tmp_path / "old.safetensors", **gone)
    ResNet18().load_published(tmp_path / "old.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer3.0.conv1.weight": None}, "lacks tensor 'layer3.0.conv1.weight'"),
        ({"layer1.2.conv1.weight": torch.zeros(1)}, "unknown tensor 'layer1.2.conv1.weight'"),
        ({"bn1.bias": torch.full((64,), float("nan"))}, "'bn1.bias' in .* not finite"),
        ({"conv1.weight": torch.zeros(64, 1, 7, 7)}, r"\(64, 3, 7, 7\) expected"),
    ],
)
def test_other_weights_are_refused_and_nothing_changes(change, message, tmp_path):
    write_published(tmp_path / "wrong.safetensors", **change)
    net = ResNet18()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(InputError, match=message):
        net.load_published(tmp_path / "wrong.safetensors")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_what_is_no_safetensors_file_is_refused_unread(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet18.pth")
    with pytest.raises(InputError, match=r"safetensors file expected, .*resnet18\.pth is none"):
        ResNet18().load_published(tmp_path / "resnet18.pth")
    with pytest.raises(InputError, match=r"weights: .*missing\.safetensors cannot be read"):
        ResNet18().load_published(tmp_path / "missing.safetensors")
