"""ResNet-18 whose state has the customary names, so that published weights fit.

Source: He et al., "Deep residual learning for image recognition", CVPR 2016, with the layout and
the names (``conv1``, ``layer1.0.bn1``, ``layer2.0.downsample.0``) that the common packages share.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from medad_fast.errors import InputError

STAGES = 4


class Block(nn.Module):
    """Two 3x3 convolutions around which the input, fitted to their size, is added."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, features: Tensor) -> Tensor:
        changed = F.relu(self.bn1(self.conv1(features)))
        changed = self.bn2(self.conv2(changed))
        kept = features if self.downsample is None else self.downsample(features)
        return F.relu(changed + kept)


class ResNet18(nn.Module):
    """The network without its classifier: 11,176,512 parameters at ``width=64``.

    The stem has three input channels, as published weights do. A grey image stands for three equal
    channels: instead of repeating it, the stem's filters are added up, which gives the same.

    Args:
        width: channels of the first stage; each of the others has twice those before it.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.widths = (width, *(width * 2**stage for stage in range(STAGES)))
        """Channels of what :meth:`stages` gives."""
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, outputs in enumerate(self.widths[1:], start=1):
            blocks = [Block(inputs, outputs, 1 if stage == 1 else 2), Block(outputs, outputs, 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            inputs = outputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 1 or 3, H, W)`` to embeddings ``(B, 8 width)``."""
        return self.stages(images)[-1].mean(dim=(2, 3))

    def stages(self, images: Tensor, depth: int = STAGES) -> list[Tensor]:
        """Outputs of the stem, before it is pooled, and of the first ``depth`` stages.

        Args:
            images: ``(B, 1 or 3, H, W)``, sides of at least 32.
            depth: 0 to 4; later stages are not computed.

        Returns:
            ``depth + 1`` maps ``(B, C_l, H_l, W_l)``: sides H/2, H/4, H/8, H/16, H/32, rounded up.
        """
        weight = self.conv1.weight
        if images.shape[1] == 1:
            weight = weight.sum(dim=1, keepdim=True)
        features = F.relu(self.bn1(F.conv2d(images, weight, stride=2, padding=3)))
        outputs = [features]
        features = F.max_pool2d(features, 3, stride=2, padding=1)
        for stage in range(1, depth + 1):
            features = self.get_submodule(f"layer{stage}")(features)
            outputs.append(features)
        return outputs

    def load_published(self, path: str | Path) -> None:
        """Take over published weights; a classifier (``fc``) in the file is left out.

        Args:
            path: a local safetensors file. Nothing is downloaded or unpickled.

        Raises:
            InputError: the file cannot be read, or is of another network; the message says which
                tensor is missing, unknown or of another size.
        """
        try:
            tensors = tensors_from_bytes(Path(path).read_bytes())
        except OSError as error:
            raise InputError(f"weights: {path} cannot be read: {error.strerror}") from error
        except SafetensorError as error:
            raise InputError(
                f"weights: a safetensors file expected, {path} is none ({error}); docs/methods.md "
                "tells how to convert one"
            ) from error
        found = {name: value for name, value in tensors.items() if not name.startswith("fc.")}
        own = self.state_dict()
        # Old files do not count batches; the count is used by nothing here.
        counters = {name for name in own if name.endswith("num_batches_tracked")}
        for name in sorted((set(found) ^ set(own)) - (counters - set(found))):
            state = "lacks" if name in own else "has an unknown"
            raise InputError(f"weights: {path} {state} tensor {name!r}; ResNet-18 was expected")
        for name, value in found.items():
            if value.shape != own[name].shape:
                raise InputError(
                    f"weights: {name!r} of shape {tuple(own[name].shape)} expected in {path}, "
                    f"got {tuple(value.shape)}; published weights need width 64"
                )
            if not torch.isfinite(value).all():
                raise InputError(f"weights: {name!r} in {path} has values that are not finite")
        self.load_state_dict(found, strict=False)
