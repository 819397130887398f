"""AnatPaste's masks and pastes against a whole training step, and against the published recipe.

    python -m bench.bench_anatpaste_step [--device cuda] [--threads 2] [--point 256]

"fused" is what the method does for a batch before its network: lungs, random numbers, pastes.
"training step" is that, forward and backward of ResNet-18 over images and pasted images, and the
optimiser: 1 over its ratio is the share of a step that goes into masks and pastes. "published" is
the same masks and pastes with scikit-image, Pillow and numpy, one image after another in one
process; with it, the share is published / (training step - fused + published).

The whole-image jitter before, which both have, is left out. Images have 8 bits, as the published
recipe needs; it rounds to whole grey levels at each stage, so pastes agree to a few of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.bench_anatomy_paste import published_paste
from bench.harness import Benchmark, Comparison, compare
from medad_fast.methods.anatpaste import AnatPaste, AnatPasteConfig
from medad_fast.ops import (
    AnatomyPasteParams,
    anatomy_paste_reference,
    lung_mask_reference,
)
from python_tests.phantoms import chest_phantoms

SEED = 0


@dataclass(frozen=True)
class Point:
    """Size of the batch before it is doubled, and of the images."""

    batch: int
    side: int

    @property
    def name(self) -> str:
        return f"{self.batch}x1x{self.side}x{self.side}"


# The paper's size with an eighth of its batch: a step of 64 takes half a minute on two cores.
POINTS = [Point(2, 64), Point(8, 128), Point(8, 256)]


def comparison(
    point: Point, device: torch.device, *, seconds: float, compiled: bool = True
) -> Comparison:
    """Masks and pastes alone, within a step, and as published, on the same random numbers."""
    levels = chest_phantoms(range(point.batch), point.side, point.side)
    images = (levels[:, None].float() / 127.5 - 1).to(device)
    # At other sizes than the paper's the method would segment enlarged copies and scale the paste.
    config = AnatPasteConfig(image_size=point.side, jitter=0.0, lung_size=point.side)
    method = AnatPaste(config).to(device).train()
    (stage,) = method.stages()
    (update,) = stage.updates
    optimizer = update.optimizer(update.parameters())

    def views() -> tuple[Tensor, ...]:
        torch.manual_seed(SEED)
        return method.views(images)

    def training_step() -> Tensor:
        both = views()
        loss = method.views_loss(both)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return both[1]

    def drawn() -> AnatomyPasteParams:
        torch.manual_seed(SEED)
        params = AnatomyPasteParams.sample(point.batch, point.side, black=-1.0)
        if point.side != 256:
            scale = point.side / 256
            params.integers[:, 2] = round(10 * scale)
            params.reals[:, 0] *= scale
        return params

    pictures = [Image.fromarray(each.numpy()).convert("RGB") for each in levels]

    def published() -> Tensor:
        params = drawn()
        pasted = []
        for i, picture in enumerate(pictures):
            mask = lung_mask_reference(levels[i : i + 1])[0].numpy()
            pasted.append(np.asarray(published_paste(picture, mask, params, i))[None, :, :, 0])
        return torch.from_numpy(np.stack(pasted)).float() / 127.5 - 1

    def truth() -> Tensor:
        masks = lung_mask_reference(levels)
        exact = levels[:, None].double() / 127.5 - 1
        return anatomy_paste_reference(exact, masks, drawn()).images.clamp(-1, 1)

    return compare(
        "anatpaste_step",
        {
            "fused": lambda: views()[1],
            "published": published,
            "training step": training_step,
        },
        shape=point.name,
        dtype=images.dtype,
        device=device,
        truth=truth,
        tolerance=4 / 127.5,
        seconds=seconds,
        min_repeats=3,
    )


BENCHMARK = Benchmark("anatpaste_step", POINTS, comparison)
test_anatpaste_step = BENCHMARK.pytest()

if __name__ == "__main__":
    BENCHMARK.main()
