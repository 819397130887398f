"""CRADL: density of normal images in the representation of a contrastively trained encoder.

Source: Lueth, Zimmerer, Koehler, Jaeger, Isensee, Petersen, Maier-Hein, "CRADL: Contrastive
Representations for Unsupervised Anomaly Detection and Localization", arXiv 2301.02126 (2023). Its
own repository is gone; "the code" below is what the same group's MIC-DKFZ/cOOpD holds of it in its
first commits, and values are that code's defaults. The paper's tables could not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medad_fast.errors import InputError
from medad_fast.methods.base import Method, Prediction, Stage, Update, evaluating
from medad_fast.methods.parts.fields import Betas, Quantile, Share, Smoothing, TopK
from medad_fast.methods.parts.mixture import GaussianMixture, choose_mixture
from medad_fast.methods.parts.optimization import Schedule, adam, parameters_of, schedule
from medad_fast.methods.parts.score import as_prediction, foreground
from medad_fast.methods.parts.views import cover_squares, random_view
from medad_fast.nets.flow import Flow
from medad_fast.nets.strided import StridedDecoder, StridedEncoder
from medad_fast.ops import nt_xent_loss, smooth_saliency
from medad_fast.settings import Channels, ImageSize, Rule, checked, setting

SPREAD_FLOOR = 1e-5  # added to each feature's standard deviation, the code's

Pair = tuple[float, float]
AROUND_1 = Rule("two values around 1, above 0", lambda pair: 0 < pair[0] <= 1 <= pair[1])
RISING = Rule("two rising values above 0", lambda pair: 0 < pair[0] <= pair[1])
UP_TO_8 = Rule(
    "a list of values from 1 to 8", lambda each: len(each) > 0 and set(each) <= {*range(1, 9)}
)


@checked
class CRADLConfig:
    """Settings of :class:`CRADL`; where nothing else is said, a default is the code's."""

    image_size: ImageSize = setting(128, "side of the images in pixels; the code: powers of two")
    channels: Channels = 1
    width: int = setting(16, "channels after the first layer", ge=1)
    latent_dim: int = setting(20, "the command's default; the class has 512", ge=2)
    pretext: Literal["contrastive", "reconstruction"] = setting(
        "contrastive",
        "\"reconstruction\" trains an autoencoder's encoder: the abstract's comparison",
    )
    temperature: float = setting(0.5, "of the contrastive loss", gt=0)
    mirror: bool = setting(True, "left and right: one axis in the code, which depends on its files")
    rotation: float = setting(0.1, "largest angle in radians", ge=0)
    scale: Annotated[Pair, AROUND_1] = setting((0.9, 1.2), "of the section that is shown")
    shift: Share = setting(0.0, "of the side; the code's crops move by less than a pixel")
    brightness: Annotated[Pair, RISING] = setting((0.95, 1.1), "factor of a view's grey levels")
    noise_sigma: float = setting(
        0.033, "largest deviation: 0.05 of a range of 3, which the code calls a variance", ge=0
    )
    squares: int = setting(3, "most per view; see compat", ge=0)
    square_side: Share = setting(0.5, "largest, as a share of the image's side")
    unit_latents: bool = setting(False, "Departs when true: lengths of latents do not count")
    density: Literal["gmm", "flow"] = setting("gmm", "the code fits four mixtures and the flow")
    components: Annotated[tuple[int, ...], UP_TO_8] = setting(
        (1, 2, 4, 8),
        "Departs with several numbers: of mixtures with so many components that is taken which "
        "gives held-out normal images the highest likelihood; the code reports each",
    )
    covariance_floor: float = setting(1e-5, "added to the variances of each component", gt=0)
    shrinkage: Share = setting(0.0, "Departs above 0: towards equal variances, for few images")
    flow_blocks: int = setting(8, "couplings of the flow", ge=1)
    flow_width: int = setting(512, "of the couplings' networks", ge=1)
    flow_noise: float = setting(1e-3, "added to standardised features in training", ge=0)
    flow_learning_rate: float = setting(0.002, "1e-3 * batch / 256", gt=0)
    flow_weight_decay: float = setting(1e-4, "of the flow's optimiser", ge=0)
    flow_epochs: int = setting(60, "of the flow's stage", ge=1)
    flow_batch_size: int = setting(512, "of the flow's stage", ge=1)
    compat: bool = setting(
        False,
        "The code's quirks: squares drawn twice, up to 2 each time (3 is cut off in rounding); "
        "responsibilities squared in covariances; half the prior's weight in the flow's training "
        "loss; the density is that of standardised features, a constant apart",
    )
    image_score: Literal["likelihood", "max", "mean", "topk", "quantile"] = setting(
        "likelihood", '"likelihood" is the method\'s score; the others take one number from the map'
    )
    top_k: TopK = 100
    quantile: Quantile = 0.99
    saliency: Literal["smooth", "raw"] = setting("smooth", "the code evaluates both")
    map_smoothing: Smoothing = setting(1, "Departs above 1: mean filter on the map, side in pixels")
    mask_background: bool = setting(True, "black pixels score 0 before the map is smoothed")
    learning_rate: float = setting(1e-4, "of the pretext", gt=0)
    betas: Betas = setting((0.9, 0.999), "Adam's own")
    eps: float = setting(1e-8, "Adam's own", gt=0)
    weight_decay: float = setting(1e-6, "not on biases and norms", ge=0)
    schedule: Schedule = setting("warmup_cosine", "5 of 100 epochs rising from 0")
    epochs: int = setting(100, "of the pretext", ge=1)
    batch_size: int = setting(64, "of the pretext", ge=1)


class CRADL(Method):
    """Scores an image by ``-log p`` of its representation, a pixel by that score's gradient.

    The projection head serves the contrastive loss only. Departs: the code keeps the weights with
    the lowest loss on validation images, this keeps the last.
    """

    config: CRADLConfig
    latent_mean: Tensor
    latent_spread: Tensor

    def __init__(self, config: CRADLConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or CRADLConfig()
        self.encoder = StridedEncoder(c.image_size, c.channels, c.width, c.latent_dim)
        self.head: nn.Module | None = None
        self.decoder: nn.Module | None = None
        if c.pretext == "contrastive":
            self.head = nn.Sequential(
                nn.Linear(c.latent_dim, c.latent_dim),
                nn.ReLU(),
                nn.Linear(c.latent_dim, c.latent_dim // 2),
            )
        else:
            self.decoder = StridedDecoder(self.encoder)
        self.register_buffer("latent_mean", torch.zeros(c.latent_dim, dtype=torch.float64))
        self.register_buffer("latent_spread", torch.ones(c.latent_dim, dtype=torch.float64))
        self.mixture = GaussianMixture(c.latent_dim, max(c.components))
        self.flow = Flow(c.latent_dim, c.flow_blocks, c.flow_width) if c.density == "flow" else None

    @property
    def tunes(self) -> bool:
        """Whether a number of components is chosen by the held-out images' likelihood."""
        return self.flow is None and len(self.config.components) > 1

    def stages(self) -> Iterator[Stage]:
        """The pretext; then, where one is asked for, the flow on its standardised latents."""
        c = self.config
        name, loss = "contrast", self.contrastive_loss
        if c.pretext == "reconstruction":
            name, loss = "reconstruct", self.reconstruction_loss
        pretext = Update(
            name,
            parameters_of(self.encoder, self.head, self.decoder),
            loss,
            adam(c.learning_rate, c.betas, c.eps, weight_decay=c.weight_decay, decay_vectors=False),
            schedule(c.schedule),
        )
        # An image that is left over alone would have nothing to be told from.
        yield Stage(name, (pretext,), epochs=c.epochs, batch_size=c.batch_size, drop_last=True)
        if self.flow is None:
            return
        optimizer = adam(
            c.flow_learning_rate, (0.9, 0.999), 1e-8, weight_decay=c.flow_weight_decay, clip=5.0
        )
        update = Update("flow", self.flow.parameters, self.flow_loss, optimizer, schedule("steps"))
        yield Stage(
            "flow",
            (update,),
            epochs=c.flow_epochs,
            batch_size=c.flow_batch_size,
            prepare=self._standardised_latents,
        )

    def contrastive_loss(self, images: Tensor) -> Tensor:
        """NT-Xent of two random views; each is a batch of its own to the norms, as in the code."""
        assert self.head is not None
        first, second = (self._view(images) for _ in range(2))
        return nt_xent_loss(
            self.head(self.encoder(first)),
            self.head(self.encoder(second)),
            temperature=self.config.temperature,
        )

    def reconstruction_loss(self, images: Tensor) -> Tensor:
        """Mean squared error of a view's reconstruction; the views have no squares."""
        assert self.decoder is not None
        view = self._view(images, squares=False)
        return F.mse_loss(self.decoder(self.encoder(view)), view)

    def flow_loss(self, latents: Tensor) -> Tensor:
        """Negative log-likelihood of standardised latents ``(B, latent_dim)`` with noise."""
        assert self.flow is not None
        noisy = latents + self.config.flow_noise * torch.randn_like(latents)
        normal, log_determinant = self.flow(noisy)
        prior = 0.25 if self.config.compat else 0.5
        loss: Tensor = (prior * normal.square().sum(1) - log_determinant).mean()
        return loss

    def finish(self, train_normal: Iterable[Tensor], validation_normal: Iterable[Tensor]) -> None:
        """Fit the mixtures; with a flow there is nothing left to do."""
        c = self.config
        if self.flow is not None:
            return
        rows = self._standardised_latents(train_normal).double()
        held_out = [self._standardise(part) for part in self._latents(validation_normal)]
        mixture = choose_mixture(
            rows,
            torch.cat([rows[:0], *held_out]),
            c.components,
            floor=c.covariance_floor,
            shrinkage=c.shrinkage,
            squared=c.compat,
        )
        self.mixture.store(mixture)

    def predict(self, images: Tensor) -> Prediction:
        """Score and its gradient in one forward and backward pass, in float32, weights frozen."""
        c = self.config
        self._check_size(images)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(images.device.type, enabled=False),
            evaluating(self.encoder),
        ):
            given = images.detach().float().clone().requires_grad_()
            scores = self._negative_log_likelihood(self._encode(given))
            (gradient,) = torch.autograd.grad(scores.sum(), given)
        scores = scores.detach().float()
        with torch.no_grad():
            body = foreground(images) if c.mask_background else torch.ones_like(images[:, :1])
            body = body.to(gradient.dtype).expand_as(gradient)
            if c.saliency == "smooth":
                maps = smooth_saliency(gradient, body)
            else:
                maps = (gradient.abs() * body).amax(1, keepdim=True)
            return as_prediction(maps, None, c, own={"likelihood": lambda: scores})

    def _negative_log_likelihood(self, latents: Tensor) -> Tensor:
        """``(B)``; the density is one of latents, so it counts how they were standardised."""
        standardised = self._standardise(latents)
        if self.flow is None:
            density = self.mixture.log_density(standardised)
        else:
            density = self.flow.log_density(standardised.to(latents.dtype))
        return -density if self.config.compat else self.latent_spread.log().sum() - density

    def _standardise(self, latents: Tensor) -> Tensor:
        return (latents.double() - self.latent_mean) / self.latent_spread

    @torch.no_grad()
    def _standardised_latents(self, batches: Iterable[Tensor]) -> Tensor:
        """Learn mean and spread of normal latents; give them standardised, float32 ``(N, d)``."""
        latents = torch.cat(list(self._latents(batches))).double()
        self.latent_mean.copy_(latents.mean(0))
        self.latent_spread.copy_(latents.std(0, correction=min(1, len(latents) - 1)) + SPREAD_FLOOR)
        return self._standardise(latents).float()

    @torch.no_grad()
    def _latents(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        for images in batches:
            with evaluating(self.encoder):
                latents = self._encode(images.float())
            yield latents

    def _encode(self, images: Tensor) -> Tensor:
        """What the density is one of, ``(B, latent_dim)``."""
        latents: Tensor = self.encoder(images)
        return F.normalize(latents, dim=1) if self.config.unit_latents else latents

    def _view(self, images: Tensor, squares: bool = True) -> Tensor:
        c = self.config
        view = random_view(
            images,
            mirror=c.mirror,
            rotation=c.rotation,
            scale=c.scale,
            shift=c.shift,
            brightness=c.brightness,
            noise_sigma=c.noise_sigma,
        )
        if not squares:
            return view
        if not c.compat:
            return cover_squares(view, c.squares, c.square_side)
        for _ in range(2):
            view = cover_squares(view, max(c.squares - 1, 0), c.square_side)
        return view

    def _check_size(self, images: Tensor) -> None:
        wanted = (self.config.channels, self.config.image_size, self.config.image_size)
        if tuple(images.shape[1:]) != wanted:
            raise InputError(
                f"images: (B, {', '.join(map(str, wanted))}) expected, got {tuple(images.shape)}"
            )
