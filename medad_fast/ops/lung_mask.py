"""Where the lungs are in a chest radiograph: AnatPaste's segmentation, and a cleaner one of ours.

Source: Sato et al., "Anatomy-aware self-supervised learning for anomaly detection in chest
radiographs" (AnatPaste), iScience 26 (2023), and the authors' code, which is what ``"reference"``
follows step for step. ``"clean"`` is ours.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medad_fast.errors import InputError
from medad_fast.ops import _native
from medad_fast.ops._arguments import check_choice, check_tensor

Mode = Literal["reference", "clean"]
Gray = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_MODES = ("reference", "clean")
_SMALL_AREA = 400  # pixels, whatever the size of the image: the authors' code
_LARGE_SHARE = 164  # a lung is at least 1/164 of the image: 400 pixels at 256 x 256
_CLOSE_SHARE = 64  # closing reaches 1/64 of the shorter side: 4 pixels at 256 x 256
_MOST_PIXELS = 2**31 - 1


def lung_mask(images: Tensor, *, mode: Mode = "reference") -> Tensor:
    """Mask of the dark regions inside each image that do not touch its border: the lungs.

    ``"reference"`` gives, pixel for pixel, what the published recipe gives with scikit-image:

    1. contrast-limited adaptive histogram equalisation (``equalize_adapthist``: tiles of an eighth
       of each side, clip limit 0.01, 256 bins), stretched to [0, 1];
    2. pixels ``0 < v <= t`` with Otsu's threshold ``t`` (256 bins): the darkest level of all,
       such as a black frame, is left out;
    3. opening with a 3 x 3 square;
    4. components (8-connected, here and below) that touch the border dropped;
    5. dilation with a 3 x 3 square;
    6. for each component in the order of first pixels: if it has fewer than 400 pixels *left*, its
       whole bounding box is cleared, with whatever lies in it of other components.

    ``"clean"`` begins with the same dark pixels, and then has no such side effects:

    1. to 4.: as above;
    5. closing with a square of side ``2 r + 1``, ``r = max(1, min(H, W) // 64)``;
    6. the two largest components kept that have at least 1/164 of the image's pixels (of equal ones
       those that begin first in raster order);
    7. background that is not 4-connected with the border filled.

    In both, what lies outside the image neither erodes nor dilates.

    Args:
        images: gray images, ``(B, H, W)``, uint8, lungs darker than what surrounds them; any
            strides, any H and W of at least 1 with fewer than 2**31 pixels an image.
        mode: ``"reference"`` or ``"clean"``.

    Returns:
        ``(B, H, W)``, bool. It has no gradient.

    Raises:
        InputError: another shape, dtype or mode.
        TypeError: ``images`` is no tensor.

    Each image is segmented by itself: the result does not depend on the number of threads or on the
    rest of the batch. Nothing is random.
    """
    check_tensor(images, "images", "(B, H, W)", (torch.uint8,))
    _, height, width = images.shape
    if height < 1 or width < 1:
        raise InputError(f"images: H and W of at least 1 expected, got {tuple(images.shape)}")
    if height * width > _MOST_PIXELS:
        raise InputError(
            f"images: fewer than 2**31 pixels an image expected, got {height} x {width}"
        )
    check_choice(mode, "mode", _MODES)
    return _lung_mask(images, mode)


def lung_mask_reference(images: Tensor, *, mode: Mode = "reference") -> Tensor:
    """The same with scikit-image and scipy, image by image: what the kernels are tested against.

    Raises:
        ImportError: they are not installed.
    """
    if images.is_meta:
        return _shapes(images)
    try:
        import skimage  # noqa: F401
    except ImportError:
        needs = "lung_mask_reference needs scikit-image: pip install 'medad-fast[app]'"
        raise ImportError(needs) from None
    segment = _published if mode == "reference" else _clean
    gray = images.detach().cpu().numpy()
    masks = [segment(np.ascontiguousarray(image)) for image in gray]
    stacked = np.stack(masks) if masks else np.zeros(gray.shape, dtype=np.bool_)
    return torch.from_numpy(stacked).to(images.device)


def _published(image: Gray) -> Mask:
    """AnatPaste's steps with scikit-image's own functions."""
    from skimage.measure import label, regionprops
    from skimage.morphology import dilation

    labels = label(dilation(_dark_inside(image), np.ones((3, 3), dtype=np.uint8)))
    for region in regionprops(labels):
        # Measured when its turn comes, on labels that earlier boxes have cut into.
        if region.area < _SMALL_AREA:
            top, left, bottom, right = region.bbox
            labels[top:bottom, left:right] = 0
    mask: Mask = labels > 0
    return mask


def _dark_inside(image: Gray) -> Gray:
    """What both modes begin with: dark components that do not touch the border, 0 and 1."""
    from skimage.exposure import equalize_adapthist
    from skimage.filters import threshold_otsu
    from skimage.morphology import opening
    from skimage.segmentation import clear_border

    equalised = equalize_adapthist(image, clip_limit=0.01, nbins=256)
    bright = equalised > threshold_otsu(equalised, nbins=256)
    # The authors compare the image with this mask instead of with the threshold: what is left are
    # the pixels above 0 that are not bright.
    dark = opening(equalised > bright, np.ones((3, 3), dtype=np.uint8))
    inside: Gray = clear_border(dark.astype(np.uint8))
    return inside


def _clean(image: Gray) -> Mask:
    """The later steps of ``mode="clean"`` with scipy's own functions."""
    from scipy import ndimage

    square = np.ones((3, 3), dtype=np.bool_)
    reach = max(1, min(image.shape) // _CLOSE_SHARE)
    # Outside counts as background for a dilation and as foreground for an erosion.
    closed = ndimage.binary_erosion(
        ndimage.binary_dilation(_dark_inside(image), square, iterations=reach),
        square,
        iterations=reach,
        border_value=1,
    )
    labels, count = ndimage.label(closed, square)
    areas = np.bincount(labels.reshape(-1), minlength=count + 1)
    areas[0] = 0
    areas[areas * _LARGE_SHARE < image.size] = 0
    largest = np.argsort(-areas, kind="stable")[:2]
    filled: Mask = ndimage.binary_fill_holes(np.isin(labels, largest[areas[largest] > 0]))
    return filled


def _shapes(images: Tensor, *unused: str) -> Tensor:
    return images.new_empty(images.shape, dtype=torch.bool)


def _kernel(images: Tensor, mode: str) -> Tensor:
    out, scratch = _shapes(images), None
    if images.is_cuda:
        scratch = images.new_empty(_native.kernels.lung_mask_scratch_bytes(*images.shape))
    arguments = (images.contiguous(), _MODES.index(mode), scratch, out)
    _native.call(_native.kernels.lung_mask, images.device, *arguments)
    return out


_lung_mask = _native.register(
    "lung_mask(Tensor images, str mode) -> Tensor",
    kernel=_kernel,
    shapes=_shapes,
    reference=lambda images, mode: lung_mask_reference(images, mode=mode),
)
