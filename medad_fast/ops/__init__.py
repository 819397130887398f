"""Fused ops, usable alone: each has a plain torch reference beside it, ``<op>_reference``."""

from medad_fast.ops._native import backend
from medad_fast.ops.anatomy_paste import AnatomyPasteParams, anatomy_paste, anatomy_paste_reference
from medad_fast.ops.ensemble_discrepancy import (
    EnsembleDiscrepancy,
    ensemble_discrepancy,
    ensemble_discrepancy_reference,
)
from medad_fast.ops.lung_mask import lung_mask, lung_mask_reference
from medad_fast.ops.nt_xent_loss import nt_xent_loss, nt_xent_loss_reference
from medad_fast.ops.patch_discrepancy import patch_discrepancy, patch_discrepancy_reference
from medad_fast.ops.patch_nce_loss import patch_nce_loss, patch_nce_loss_reference
from medad_fast.ops.smooth_saliency import smooth_saliency, smooth_saliency_reference
from medad_fast.ops.ssim import ssim, ssim_reference

__all__ = [
    "AnatomyPasteParams",
    "EnsembleDiscrepancy",
    "anatomy_paste",
    "anatomy_paste_reference",
    "backend",
    "ensemble_discrepancy",
    "ensemble_discrepancy_reference",
    "lung_mask",
    "lung_mask_reference",
    "nt_xent_loss",
    "nt_xent_loss_reference",
    "patch_discrepancy",
    "patch_discrepancy_reference",
    "patch_nce_loss",
    "patch_nce_loss_reference",
    "smooth_saliency",
    "smooth_saliency_reference",
    "ssim",
    "ssim_reference",
]
