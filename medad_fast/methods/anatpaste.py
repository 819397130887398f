"""AnatPaste: an embedding that tells images from the same images with a patch pasted into a lung.

Source: Sato, Suzuki, Wataya, Nishigaki, Kita, Yamagata, Tomiyama, Kido, "Anatomy-aware
self-supervised learning for anomaly detection in chest radiographs", iScience 26 (2023) 107086. The
paper's text could not be read; "the code" is the authors' jun-sato/AnatPaste and "the README" its
page. CutPaste's variants in there (Li et al., CVPR 2021) are baselines here, by ``augmentation``.
The paper scores images only: the anomaly map is ours.

Departs: all training images are used; the code's list of 3000 leaves out the rest.
Departs: the last epoch is kept; the code picks the best by abnormal validation images, and nothing
here is chosen by those.
Departs: the density's constant is left out, since float32 would lose the digits beside it.
Those of the pastes stand in :mod:`medad_fast.methods.parts.pasting`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medad_fast.errors import InputError
from medad_fast.methods.base import Mapped, Method, Prediction, Stage, Update
from medad_fast.methods.parts.density import FeatureDistance, KernelDensity, MahalanobisDistance
from medad_fast.methods.parts.fields import (
    Betas,
    Fraction,
    Quantile,
    Smoothing,
    TopK,
    rising,
)
from medad_fast.methods.parts.optimization import Schedule, adam, parameters_of, schedule, sgd
from medad_fast.methods.parts.pasting import (
    anatomical_paste,
    find_lungs,
    jitter,
    paste_patch,
    paste_scar,
    read_mask,
)
from medad_fast.methods.parts.score import ImageScore, as_prediction, foreground
from medad_fast.nets.projection import ClassificationHead
from medad_fast.nets.resnet import ResNet18
from medad_fast.settings import Channels, ImageSize, checked, require, setting

Augmentation = Literal["anatpaste", "cutpaste", "cutpaste-scar", "cutpaste-union", "cutpaste-3way"]
Anatomy = Callable[[Tensor], Tensor | None]
"""Images ``(B, C, H, W)`` in [-1, 1] to masks, bool ``(B, H, W)``, or to None: everywhere."""


@checked
class AnatPasteConfig:
    """Settings of :class:`AnatPaste`; each default says where it comes from."""

    image_size: ImageSize = setting(256, "side of the images in pixels, README")
    channels: Channels = setting(1, "grey or colour; the code repeats grey, which is the same")
    width: int = setting(64, "channels of the first stage, ResNet-18", ge=1)
    head_layers: int = setting(1, "hidden layers of the head before the last, code", ge=0)
    projection_dim: int = setting(128, "the head's last hidden layer, code", ge=1)
    augmentation: Augmentation = setting(
        "anatpaste", "What is told from an image: the method, or a variant of CutPaste (code)"
    )
    anatomy: Literal["lungs", "foreground", "whole", "file"] = setting(
        "lungs",
        'Where AnatPaste pastes. Departs unless "lungs": pixels that are not black, everywhere, '
        "or a mask that is common to all images",
    )
    anatomy_file: str | None = setting(None, 'for anatomy "file": .npy array (H, W), not 0 inside')
    lung_mode: Literal["reference", "clean"] = setting(
        "reference", "code with side effects, or ours"
    )
    lung_size: int = setting(
        256,
        "README's size of an image. In smaller copies, narrow bridges of dark between the lungs "
        "and the border, which make the recipe find nothing, are opened too",
        ge=16,
        le=512,
    )
    jitter: Fraction = setting(0.1, "of the whole image, before the paste, code; 0 for none")
    weights: str | None = setting(
        None, "safetensors file of a ResNet-18 to begin with; README: none"
    )
    freeze_backbone: bool = setting(True, "with weights: train the head only, as the code does")
    optimizer: Literal["sgd", "adam"] = setting("sgd", "README")
    learning_rate: float = setting(0.03, "code", gt=0)
    momentum: Fraction = setting(0.9, "of sgd, code")
    betas: Betas = setting((0.9, 0.999), "of adam")
    eps: float = setting(1e-8, "of adam", gt=0)
    weight_decay: float = setting(3e-5, "code", ge=0)
    schedule: Schedule = setting("cosine", "code: to 0, changed once per epoch")
    epochs: int = setting(256, "code", ge=1)
    epoch_steps: int | None = setting(
        256, "updates in an epoch, code; null: a pass over the images", ge=1
    )
    batch_size: int = setting(64, "images, each with its augmented copies beside it, README", ge=1)
    density: Literal["kde", "mahalanobis"] = setting("kde", "code; MedIAnomaly has the other")
    bandwidth: float = setting(1.0, "of the kernels, on embeddings of unit length, code", gt=0)
    image_score: Literal["density", "classifier"] | ImageScore = setting(
        "density",
        'Code: the density. "classifier": how unlike an unchanged image (MedIAnomaly logs it); '
        "the others are taken from our map",
    )
    top_k: TopK = 100
    quantile: Quantile = 0.99
    map_layers: Annotated[tuple[int, ...], rising(0, 4)] = setting(
        (1, 2, 3),
        "Ours: stages of the network that the map looks at, 0 the stem. Deep ones see more around "
        "a place, and place it less exactly: one position of stage l is 2^(l + 1) pixels",
    )
    map_smoothing: Smoothing = 1
    mask_background: bool = setting(False, "whether black pixels of the map are 0")

    def __post_init__(self) -> None:
        fits = (self.anatomy_file is not None) == (self.anatomy == "file")
        require(fits, self, "anatomy_file", "a path where anatomy is 'file', else null")
        require(self.weights is None or self.width == 64, self, "width", "64 with weights")


class AnatPaste(Method):
    """Scores an image by the density of its embedding among those of normal images.

    The map is ours: the squared Mahalanobis distance of the features of ``map_layers`` from what is
    normal at each place (:mod:`medad_fast.methods.parts.density`). It shows where features
    are unusual, which need not be what moved the image's score.

    Args:
        config: settings.
        anatomy: masks instead of those that ``config.anatomy`` names; used in training only and not
            saved. A stopped training must be resumed with the same.
    """

    config: AnatPasteConfig
    anatomy_mask: Tensor

    def __init__(
        self, config: AnatPasteConfig | None = None, *, anatomy: Anatomy | None = None
    ) -> None:
        super().__init__()
        self.config = c = config or AnatPasteConfig()
        self.anatomy = anatomy
        self.backbone = ResNet18(c.width)
        dimensions = self.backbone.widths[-1]
        classes = 3 if c.augmentation == "cutpaste-3way" else 2
        self.head = ClassificationHead(dimensions, c.head_layers, c.projection_dim, classes)
        self.density: KernelDensity | MahalanobisDistance = (
            KernelDensity(dimensions, c.bandwidth)
            if c.density == "kde"
            else MahalanobisDistance(dimensions)
        )
        self.distances = nn.ModuleList(
            FeatureDistance(self.backbone.widths[layer], -(-c.image_size // 2 ** (layer + 1)))
            for layer in c.map_layers
        )
        if c.anatomy == "file":
            mask = torch.ones(c.image_size, c.image_size, dtype=torch.bool)
            self.register_buffer("anatomy_mask", mask)

    def initialize(self) -> None:
        """Read the published weights and the mask that the configuration names."""
        c = self.config
        if c.weights is not None:
            self.backbone.load_published(c.weights)
        if c.anatomy_file is not None:
            self.anatomy_mask.copy_(read_mask(c.anatomy_file, c.image_size))

    def stages(self) -> Iterator[Stage]:
        """One stage: classification of images and their augmented copies."""
        c = self.config
        update = Update(
            "classifier",
            parameters_of(None if self._frozen else self.backbone, self.head),
            self.classification_loss,
            sgd(c.learning_rate, c.momentum, c.weight_decay)
            if c.optimizer == "sgd"
            else adam(c.learning_rate, c.betas, c.eps, weight_decay=c.weight_decay),
            schedule(c.schedule, levels=c.epochs),
        )
        yield Stage(
            "classify",
            (update,),
            epochs=c.epochs,
            batch_size=c.batch_size,
            steps=None if c.epoch_steps is None else c.epochs * c.epoch_steps,
            drop_last=True,
        )

    def classification_loss(self, images: Tensor) -> Tensor:
        """Cross-entropy of images ``(B, C, H, W)`` and their augmented copies, ``B`` of each."""
        return self.views_loss(self.views(images))

    def views_loss(self, views: tuple[Tensor, ...]) -> Tensor:
        """Cross-entropy of classes that have ``B`` images ``(B, C, H, W)`` each."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            embeddings = self.backbone(torch.cat(views))
        logits = self.head(embeddings)
        labels = torch.arange(len(views), device=logits.device).repeat_interleave(len(views[0]))
        return F.cross_entropy(logits.float(), labels)

    @torch.no_grad()
    def views(self, images: Tensor) -> tuple[Tensor, ...]:
        """Jittered images, and what each class to be told from them is made of, class by class."""
        c = self.config
        images = jitter(images, c.jitter)
        if c.augmentation == "anatpaste":
            return images, anatomical_paste(images, self.masks(images))
        if c.augmentation == "cutpaste":
            return images, paste_patch(images)
        if c.augmentation == "cutpaste-scar":
            return images, paste_scar(images)
        patched, scarred = paste_patch(images), paste_scar(images)
        if c.augmentation == "cutpaste-3way":
            return images, patched, scarred
        first = (torch.rand(len(images)) < 0.5).to(images.device)[:, None, None, None]
        return images, torch.where(first, patched, scarred)

    def masks(self, images: Tensor) -> Tensor | None:
        """Where AnatPaste pastes into images ``(B, C, H, W)``; bool ``(B, H, W)``, None: anywhere.

        Raises:
            InputError: the masks that were given do not fit.
        """
        kind = self.config.anatomy
        if self.anatomy is not None:
            return _checked(self.anatomy(images), images)
        if kind == "whole":
            return None
        if kind == "foreground":
            return foreground(images)[:, 0]
        if kind == "file":
            return self.anatomy_mask.expand(len(images), -1, -1)
        return find_lungs(images, self.config.lung_mode, self.config.lung_size)

    @torch.no_grad()
    def finish(self, train_normal: Iterable[Tensor], validation_normal: Iterable[Tensor]) -> None:
        """The density of the training images' embeddings, and what is normal in the map's layers.

        Not of the validation images: their scores set thresholds, and must be like new ones.
        """
        self.eval()
        embeddings = [self.embed(images) for images in train_normal]
        self.density.fit(torch.cat(embeddings))
        for distance, layer in self._layers():

            def features(images: Tensor, layer: int = layer) -> Tensor:
                return self.backbone.stages(images, layer)[-1].float()

            distance.fit(Mapped(features, train_normal))

    def embed(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` to embeddings of unit length, float32 ``(B, 8 width)``."""
        return F.normalize(self.backbone(images).float(), dim=1)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """The map is the mean over layers of the features' distances; 1 is usual."""
        features = self.backbone.stages(images)
        parts = [
            F.interpolate(distance(features[layer]), images.shape[-2:], mode="bilinear")
            for distance, layer in self._layers()
        ]
        embeddings = features[-1].mean(dim=(2, 3))
        own = {
            "density": lambda: self.density(F.normalize(embeddings.float(), dim=1)),
            "classifier": lambda: 1 - self.head(embeddings).float().softmax(dim=1)[:, 0],
        }
        return as_prediction(torch.stack(parts).mean(dim=0), images, self.config, own=own)

    @property
    def _frozen(self) -> bool:
        return self.config.weights is not None and self.config.freeze_backbone

    def _layers(self) -> Iterator[tuple[FeatureDistance, int]]:
        for distance, layer in zip(self.distances, self.config.map_layers, strict=True):
            assert isinstance(distance, FeatureDistance)
            yield distance, layer


def _checked(masks: Tensor | None, images: Tensor) -> Tensor | None:
    wanted = (len(images), *images.shape[-2:])
    if masks is not None and (tuple(masks.shape) != wanted or masks.dtype != torch.bool):
        raise InputError(
            f"anatomy: masks of type bool and shape {wanted} expected, got {masks.dtype} "
            f"{tuple(masks.shape)}"
        )
    return masks
