"""Trust factors T1 to T5 of synthetic images for segmentation, from Dice scores.

Raja Babu et al., "Position paper: Building trust in synthetic data for clinical AI"
(arXiv 2502.02076, 2025): a network learns from a mix of real and synthetic images, and is tested on
both. High T1, T2 and T3 and low T4 and T5 mean that synthetic cases serve like real ones. Of T2 the
printed formula and the text differ, so both are here under names that tell. They inform; no
release hangs on them.

Shapes: N cases, R regions, H x W pixels. A score is NaN where a case lacks the region.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

REGIONS = {"ET": 4, "ED": 2, "NCR": 1}
"""Enhancing tumour, oedema, necrotic core, and how BraTS marks them in masks."""


@dataclass(frozen=True)
class TrustFactors:
    """On one set of test cases. Deviations are those of all cases at hand (divided by N)."""

    t1_regions: tuple[float, ...]
    """Mean Dice over cases, by region."""
    t1: float
    """Mean of these over regions."""
    t2_over_cases: float
    """1 - deviation over cases, mean over regions: the printed formula."""
    t2_over_regions: float
    """1 - deviation over regions of their mean Dice: what the text says."""
    t5: float
    """Deviation over cases by their mean, mean over regions."""


@dataclass(frozen=True)
class PairedFactors:
    """On cases that have a real and a synthetic image of one mask."""

    t3: float
    """Cosine of the two vectors of Dice scores."""
    t4: float
    """Mean absolute difference of the two scores of a pair."""


def dice(predicted_NHW: NDArray[np.uint8], mask_NHW: NDArray[np.uint8]) -> Float64Array:
    """Return 2 |A ∩ B| / (|A| + |B|) of each case and region, (N, R), in the order of ``REGIONS``.

    NaN where the mask has no such region: any score would be a matter of taste.
    """
    scores = np.full((len(mask_NHW), len(REGIONS)), np.nan)
    for r, mark in enumerate(REGIONS.values()):
        found, there = (image == mark for image in (predicted_NHW, mask_NHW))
        known = there.any((1, 2))
        both = 2.0 * (found & there).sum((1, 2))[known]
        scores[known, r] = both / (found.sum((1, 2)) + there.sum((1, 2)))[known]
    return scores


def trust_factors(dice_NR: Float64Array) -> TrustFactors:
    """Return the factors that one set of cases gives; every region must be in some case.

    Raises:
        ValueError: a region is in no case.
    """
    if np.isnan(dice_NR).all(axis=0).any():
        raise ValueError("a region is in no case")
    mean_R, deviation_R = np.nanmean(dice_NR, axis=0), np.nanstd(dice_NR, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        variation_R = deviation_R / mean_R  # NaN where a region is never found
    return TrustFactors(
        t1_regions=tuple(float(mean) for mean in mean_R),
        t1=float(mean_R.mean()),
        t2_over_cases=float(1 - deviation_R.mean()),
        t2_over_regions=float(1 - mean_R.std()),
        t5=float(variation_R.mean()),
    )


def paired_factors(real_NR: Float64Array, synthetic_NR: Float64Array) -> PairedFactors:
    """Return the factors of pairs: row n of both is of one mask.

    Raises:
        ValueError: the sets differ in size, or have no score in common.
    """
    if real_NR.shape != synthetic_NR.shape:
        raise ValueError("pairs need as many real as synthetic cases")
    known = ~(np.isnan(real_NR) | np.isnan(synthetic_NR))
    if not known.any():
        raise ValueError("no region is in a pair")
    real, synthetic = real_NR[known], synthetic_NR[known]
    lengths = float(np.linalg.norm(real) * np.linalg.norm(synthetic))
    return PairedFactors(
        t3=float(real @ synthetic) / lengths if lengths > 0 else float("nan"),
        t4=float(np.abs(real - synthetic).mean()),
    )
