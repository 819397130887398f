"""Trivial detectors that every reported AUC stands beside.

Many a published method does not beat the mean grey level or the size of the file. Each baseline
says how far one plain number of an image lies from that number in the normal training images,
``|f - mean| / sd``; none is ever turned round or tuned on a test set.

- ``mean``, ``std``: of the pixels.
- ``gradient``: mean absolute difference of neighbouring pixels, down and across.
- ``mean_abs_z``: mean over pixels of ``|z|``, with mean and sd of each pixel over training images.
- ``pca16``: mean squared error of the image's reconstruction from 16 principal components.
- ``file_size``: bytes on disk, only where a file holds one image.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medad_fast.errors import InputError

NAMES = ("mean", "std", "gradient", "mean_abs_z", "pca16", "file_size")
COMPONENTS = 16
MAX_PCA_IMAGES = 2048
GREY_LEVEL = 2 / 255
"""One of 256 grey levels of images in [-1, 1]: the least sd a pixel is given, since the background
never varies in training and would else divide by zero."""
_IMAGES_AT_ONCE = 64
_PIXELS_AT_ONCE = 4096


class Baselines:
    """Statistics of the normal training images, and the trivial scores they give to others.

    All arithmetic is in float64 on the CPU and the same on every run with the same threads; an
    image's values do not depend on the images beside it. Besides its state it needs memory for 64
    images at a time.
    """

    def __init__(
        self,
        features: Tensor,
        pixel_mean: Tensor,
        pixel_sd: Tensor,
        components: Tensor,
        file_size: Tensor | None = None,
    ) -> None:
        """Take statistics as :meth:`state` gives them; to compute them use :meth:`fit`."""
        self._features = features
        self._pixel_mean = pixel_mean
        self._pixel_sd = pixel_sd
        self._components = components
        self._file_size = file_size

    @classmethod
    def fit(cls, images: Tensor, file_sizes: Tensor | None = None) -> Baselines:
        """Statistics of normal training images.

        Args:
            images: ``(N, C, h, w)`` floating point in [-1, 1], ``N >= 2``.
            file_sizes: ``(N)`` bytes, NaN where the file holds more than this image; ``None`` where
                there are no files. Used if at least two are numbers.

        The components come from at most 2,048 images, evenly spaced in the given order; fewer than
        17 images give fewer components.

        Raises:
            InputError: another shape, fewer than two images, or values that are not finite.
        """
        _check(images)
        if len(images) < 2:
            raise InputError(f"images: baselines need at least 2 normal images, got {len(images)}")
        features = torch.cat([_features(part) for part in _batches(images)])
        pixel_mean = _mean(images)
        squares = torch.zeros_like(pixel_mean)
        for part in _batches(images):
            squares += (part - pixel_mean).square().sum(0)
        spread = (squares / (len(images) - 1)).sqrt()
        return cls(
            features=_mean_and_sd(features),
            pixel_mean=pixel_mean,
            pixel_sd=spread,
            components=_principal_components(images, pixel_mean),
            file_size=_file_statistics(images, file_sizes),
        )

    def values(self, images: Tensor, file_sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Baseline scores, larger is further from the normal training images.

        Args:
            images: ``(N, C, h, w)`` of the training images' shape.
            file_sizes: ``(N)`` bytes, NaN where the file holds more than this image.

        Returns:
            A float64 tensor ``(N)`` for each of :data:`NAMES`; ``file_size`` is NaN where the
            size, here or in training, belongs to no single image.

        Raises:
            InputError: images of another shape, or values that are not finite.
        """
        _check(images)
        if images.shape[1:] != self._pixel_mean.shape:
            raise InputError(
                f"images: {tuple(self._pixel_mean.shape)} expected for each, as in training, "
                f"got {tuple(images.shape[1:])}"
            )
        parts = [self._values(part) for part in _batches(images)]
        names = [name for name in NAMES if name != "file_size"]
        table = torch.cat(parts) if parts else torch.zeros(0, len(names), dtype=torch.float64)
        values = dict(zip(names, table.unbind(1), strict=True))
        values["file_size"] = torch.full((len(images),), torch.nan, dtype=torch.float64)
        if file_sizes is not None and self._file_size is not None:
            sizes = _check_sizes(file_sizes, len(images))
            values["file_size"] = _distance(sizes, self._file_size[0], self._file_size[1])
        return values

    def state(self) -> dict[str, Tensor]:
        """All statistics as named float64 tensors, for safetensors."""
        state = {
            "features": self._features,
            "pixel_mean": self._pixel_mean,
            "pixel_sd": self._pixel_sd,
            "components": self._components,
        }
        if self._file_size is not None:
            state["file_size"] = self._file_size
        return {name: tensor.contiguous() for name, tensor in state.items()}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Baselines:
        """The baselines whose :meth:`state` this is.

        Raises:
            InputError: a name is missing or unknown.
        """
        wanted = {"features", "pixel_mean", "pixel_sd", "components"}
        if not wanted <= state.keys() <= wanted | {"file_size"}:
            raise InputError(f"state: the tensors {sorted(wanted)} expected, got {sorted(state)}")
        return cls(**state)

    def _values(self, images: Tensor) -> Tensor:
        plain = _distance(_features(images), self._features[0], self._features[1])
        offset = images - self._pixel_mean
        z = (offset / self._pixel_sd.clamp(min=GREY_LEVEL)).abs().flatten(1).mean(1)
        flat = offset.flatten(1)
        rest = flat - (flat @ self._components.T) @ self._components
        return torch.cat([plain, z[:, None], rest.square().mean(1, keepdim=True)], dim=1)


def _check(images: Tensor) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(
            f"images: floating point (N, C, h, w) expected, got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    if not all(bool(part.isfinite().all()) for part in torch.split(images, _IMAGES_AT_ONCE)):
        raise InputError("images: finite values expected, got NaN or infinity")


def _check_sizes(sizes: Tensor, images: int) -> Tensor:
    if sizes.shape != (images,):
        raise InputError(
            f"file_sizes: one for each of {images} images expected, got {tuple(sizes.shape)}"
        )
    return sizes.to("cpu", torch.float64)


def _batches(images: Tensor) -> Iterator[Tensor]:
    for part in torch.split(images, _IMAGES_AT_ONCE) if len(images) else ():
        yield part.to("cpu", torch.float64)


def _features(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().flatten(1).mean(1)
    across = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().flatten(1).mean(1)
    return torch.stack([flat.mean(1), flat.std(1, correction=0), (down + across) / 2], dim=1)


def _mean(images: Tensor) -> Tensor:
    total = torch.zeros(images.shape[1:], dtype=torch.float64)
    for part in _batches(images):
        total += part.sum(0)
    return total / len(images)


def _mean_and_sd(values: Tensor) -> Tensor:
    return torch.stack([values.mean(0), values.std(0)])


def _distance(values: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    # A feature without spread in training keeps its own unit: the ranking is the same, and finite.
    return (values - mean).abs() / torch.where(sd > 0, sd, 1.0)


def _file_statistics(images: Tensor, file_sizes: Tensor | None) -> Tensor | None:
    if file_sizes is None:
        return None
    sizes = _check_sizes(file_sizes, len(images))
    known = sizes[~sizes.isnan()]
    return _mean_and_sd(known) if len(known) >= 2 else None


def _principal_components(images: Tensor, pixel_mean: Tensor) -> Tensor:
    """Unit rows ``(k, C h w)`` of the largest variance, by the Gram matrix of the images."""
    chosen = torch.linspace(0, len(images) - 1, min(len(images), MAX_PCA_IMAGES)).round().long()
    flat, centre = images.flatten(1), pixel_mean.flatten()
    columns = [
        slice(first, first + _PIXELS_AT_ONCE) for first in range(0, len(centre), _PIXELS_AT_ONCE)
    ]

    def centred(part: slice) -> Tensor:
        return flat[chosen, part].to("cpu", torch.float64) - centre[part]

    gram = torch.zeros(len(chosen), len(chosen), dtype=torch.float64)
    for part in columns:
        block = centred(part)
        gram += block @ block.T
    variances, vectors = torch.linalg.eigh(gram)
    # What rounding leaves of a variance of zero must not become a direction.
    real = variances > variances[-1].clamp(min=0) * 1e-10
    kept = int(min(COMPONENTS, int(real.sum())))
    variances, vectors = variances[len(chosen) - kept :], vectors[:, len(chosen) - kept :]
    rows = torch.cat([vectors.T @ centred(part) for part in columns], dim=1)
    components: Tensor = rows / variances.sqrt()[:, None]
    return components.flip(0)
