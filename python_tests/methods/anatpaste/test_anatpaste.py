"""The laws of AnatPaste: its stage, embedding, density, map and settings."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file

import medad_fast
from medad_fast.errors import CheckpointError, InputError
from medad_fast.methods import create
from medad_fast.nets.resnet import ResNet18
from medad_fast.training.loop import train
from python_tests.methods.anatpaste.small import AUGMENTATIONS, build, chests
from python_tests.methods.small import discs
from python_tests.phantoms import chest_phantoms


def test_the_papers_size_has_the_published_parts():
    method = create("anatpaste")
    assert sum(p.numel() for p in method.backbone.parameters()) == 11_176_512
    # Linear and batch norm of 512 to 512, of 512 to 128, and the two logits.
    head = (512 * 512 + 512) + 2 * 512 + (512 * 128 + 128) + 2 * 128 + (128 * 2 + 2)
    assert sum(p.numel() for p in method.head.parameters()) == head
    three = create("anatpaste", augmentation="cutpaste-3way")
    assert three.head.output.out_features == 3


def test_the_stage_is_the_published_one():
    (stage,) = create("anatpaste").stages()
    assert stage.steps == 65_536
    assert stage.batch_size == 64
    assert stage.drop_last
    (update,) = stage.updates
    optimizer = update.optimizer(update.parameters())
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.03, 0.9, 3e-5)
    plan = update.schedule(optimizer, stage.steps)
    rates = [plan.lr_lambdas[0](step) for step in (0, 255, 256, 128 * 256, 65_535)]
    cosines = [1, 1, *(0.5 + 0.5 * math.cos(math.pi * epoch / 256) for epoch in (1, 128, 255))]
    assert rates == pytest.approx(cosines)
    assert next(iter(create("anatpaste", epoch_steps=None).stages())).steps is None


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_the_loss_is_the_cross_entropy_of_the_views_in_order(augmentation):
    method = build(augmentation=augmentation)
    images = discs(3)
    torch.manual_seed(1)
    loss = method.classification_loss(images)
    torch.manual_seed(1)
    views = method.views(images)
    assert len(views) == (3 if augmentation == "cutpaste-3way" else 2)
    build_again = build(augmentation=augmentation)  # its batch norms have seen nothing yet
    logits = build_again.head(build_again.backbone(torch.cat(views)))
    rows = [
        -logits[i].log_softmax(0)[label]
        for i, label in enumerate(label for label in range(len(views)) for _ in range(3))
    ]
    assert loss.item() == pytest.approx((sum(rows) / len(rows)).item(), rel=1e-5)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_the_gradient_reaches_every_weight(augmentation):
    method = build(augmentation=augmentation)
    method.classification_loss(discs(4)).backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert method.backbone.conv1.weight.grad.abs().sum() > 0


def test_published_weights_start_training_and_stay_as_they_are_where_frozen(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        published = ResNet18().state_dict()
    save_file(published, tmp_path / "resnet18.safetensors")
    path = str(tmp_path / "resnet18.safetensors")
    for frozen in (True, False):
        method = build(width=64, weights=path, freeze_backbone=frozen)
        method.classification_loss(discs(4)).backward()
        assert (method.backbone.conv1.weight.grad is None) == frozen
        before = method.head.output.weight.detach().clone()
        train(method, discs(4), max_steps=2, device="cpu")
        weights = dict(method.backbone.named_parameters())
        same = [torch.equal(weights[name], published[name]) for name in weights]
        assert all(same) == frozen
        assert not torch.equal(method.head.output.weight, before)


def test_a_run_is_loaded_or_resumed_without_the_file_of_weights(tmp_path):
    published = ResNet18().state_dict()
    save_file(published, tmp_path / "resnet18.safetensors")
    overrides = {"width": 64, "weights": str(tmp_path / "resnet18.safetensors")}

    state = tmp_path / "state"
    train(build(**overrides), discs(4), max_steps=1, device="cpu", state=state)
    (tmp_path / "resnet18.safetensors").unlink()
    resumed = build(**overrides, seed=1)
    train(resumed, discs(4), max_steps=2, device="cpu", state=state, resume=True)
    assert torch.equal(resumed.backbone.conv1.weight, published["conv1.weight"])
    with pytest.raises(InputError, match=r"weights: .* cannot be read"):
        train(build(**overrides), discs(4), max_steps=1, device="cpu")


def test_bfloat16_trains():
    method = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.classification_loss(discs(4))
    loss.backward()
    assert torch.isfinite(loss)


def test_embeddings_have_unit_length_and_the_density_is_of_all_training_images():
    method, images = build(), discs(10)
    train(method, images, max_steps=1, device="cpu")
    method.finish(list(images.split(4)), [])
    with torch.no_grad():
        embeddings = method.embed(images)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(10))
    torch.testing.assert_close(method.density.points, embeddings, rtol=1e-4, atol=1e-5)
    score = method.predict(images).anomaly_score
    expected = -((embeddings @ embeddings.T - 1).double().exp().mean(1).log())
    torch.testing.assert_close(score.double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [{"image_score": "classifier"}, {"image_score": "max"}, {"density": "mahalanobis"}],
)
def test_other_scores_are_what_they_say(overrides):
    method, images = build(**overrides), discs(6)
    method.finish([images], [])
    score, anomaly_map = method.predict(images)
    with torch.no_grad():
        expected = {
            "classifier": lambda: 1 - method.head(method.backbone(images)).softmax(1)[:, 0],
            "max": lambda: anomaly_map.amax((1, 2, 3)),
            "density": lambda: method.density(method.embed(images)),
        }[method.config.image_score]()
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)


def test_the_map_is_one_on_average_over_the_training_images():
    method, images = build(image_size=64), discs(24, size=64)
    train(method, images, max_steps=2, device="cpu")
    method.finish(list(images.split(7)), [])
    assert method.predict(images).anomaly_map.mean().item() == pytest.approx(1.0, abs=0.1)


def test_the_map_points_at_an_opacity_in_a_lung_of_a_phantom():
    def aligned(count, start):
        """Phantoms that differ by noise and a shift of brightness only."""
        rng = torch.Generator().manual_seed(start)
        base = chests(1, 128, start=1)
        noise = 0.05 * torch.randn(count, 1, 128, 128, generator=rng)
        level = 0.05 * torch.randn(count, 1, 1, 1, generator=rng)
        return (base * 0.8 + noise + level).clamp(-1, 1)

    normal, test = aligned(40, 0), aligned(8, 1)
    rows, columns = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    lesion = ((rows - 60).square() + (columns - 40).square()).float().sqrt()
    test[4:] = (test[4:] + 0.6 * torch.sigmoid((9 - lesion) / 2)).clamp(-1, 1)
    method = build(image_size=128, width=8, optimizer="adam", learning_rate=0.002, lung_size=128)
    train(method, normal, max_steps=20, device="cpu")
    method.finish(list(normal.split(10)), [])
    maps = method.predict(test).anomaly_map[:, 0]
    for each in maps[4:]:
        row, column = divmod(int(each.argmax()), 128)
        assert math.hypot(row - 60, column - 40) < 16
    assert maps[4:].amax((1, 2)).min() > 1.5 * maps[:4].amax((1, 2)).max()


def test_a_state_of_more_images_than_at_first_is_loaded():
    method, images = build(), discs(9)
    method.finish([images], [])
    state = {name: value.clone() for name, value in method.state_dict().items()}
    other = build(seed=1).eval()
    other.make_room(state)
    other.load_state_dict(state)
    for a, b in zip(other.predict(images), method.predict(images), strict=True):
        assert torch.equal(a, b)
    for wrong in (torch.zeros(9), torch.zeros(9, 3), torch.zeros(0, 32)):
        with pytest.raises(CheckpointError, match=r"points of \(N, 32\) expected"):
            other.make_room({"density.points": wrong})


def test_a_fitted_run_is_loaded_bit_for_bit(tmp_path):
    from PIL import Image

    for folder, seeds in (("train/normal", range(10)), ("validation/normal", range(20, 22))):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number, chest in enumerate(chest_phantoms(seeds, 64, 64)):
            Image.fromarray(chest.numpy()).save(tmp_path / "data" / folder / f"{number}.png")
    settings = {"width": 4, "image_size": 32, "epoch_steps": None, "batch_size": 4}
    run = medad_fast.fit(
        "anatpaste", tmp_path / "data", tmp_path / "run", max_steps=2, device="cpu", **settings
    )
    images = torch.rand(3, 1, 32, 32) * 2 - 1
    again = medad_fast.load(tmp_path / "run").predict(images)
    for a, b in zip(run.predict(images), again, strict=True):
        assert torch.equal(a, b)
    assert run.method.density.points.shape == (10, 32)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"map_layers": (2, 1)}, "map_layers must be rising numbers from 0 to 4"),
        ({"map_layers": ()}, "map_layers must be"),
        ({"map_layers": (5,)}, "map_layers must be"),
        ({"anatomy": "file"}, "anatomy_file must be a path where anatomy is 'file'"),
        ({"anatomy_file": "mask.npy"}, "anatomy_file must be"),
        ({"weights": "a.safetensors", "width": 32}, "width must be 64 with weights"),
        ({"bandwidth": 0.0}, "bandwidth must be a finite number above 0"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"jitter": 1.0}, "jitter must be"),
        ({"epoch_steps": 0}, "epoch_steps must be a whole number of 1 or more, or null"),
        ({"head_layers": -1}, "head_layers must be a whole number of 0 or more"),
        ({"lung_size": 8}, "lung_size must be a whole number from 16 to 512"),
        ({"augmentation": "mixup"}, "augmentation must be 'anatpaste' or"),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides, message):
    with pytest.raises(InputError, match=f"^{message}"):
        create("anatpaste", **overrides)
