"""The area under the ROC curve of two histograms of a score, exact or noised."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class AucEstimate:
    """Area under the ROC curve of "closer means member", with its one-sided test and interval.

    ``p_opposite`` is that of "closer means control".
    """

    auc: float
    p_value: float
    p_opposite: float
    lower: float
    upper: float


def histogram_auc(
    members: Float64Array,
    controls: Float64Array,
    *,
    sigma_members: float,
    sigma_controls: float,
    confidence: float,
) -> AucEstimate:
    """Estimate the AUC from two histograms of a score, lowest cells the most incriminating.

    Args:
        members, controls: counts a cell, exact or noised, of shape (cells,).
        sigma_members, sigma_controls: noise a cell.
        confidence: of the one-sided bounds.

    Raises:
        ValueError: noise leaves less than one patient in a group.

    The AUC is a mean over members of the share of controls in later cells (half of the same cell)
    and the other way round; its variance is that of those means (DeLong et al. 1988) plus the
    noise's, to first order. The test uses the variance under equal distributions, and bounds the
    larger of both: of a few patients who happen to lie in one cell the first is far too small.
    """
    n_m, n_c = members.sum(), controls.sum()
    if min(n_m, n_c) < 1:
        raise ValueError("members or controls are too few for an AUC")
    p, q = members / n_m, controls / n_c
    pooled = np.clip((members + controls) / (n_m + n_c), 0, None)
    pooled /= pooled.sum()
    beats = _share_after(q)
    auc = float((p * beats).sum())
    beaten = 1 - _share_after(p)
    under_null = _share_after(pooled)

    def variance(
        weight_m: Float64Array, g: Float64Array, weight_c: Float64Array, f: Float64Array
    ) -> float:
        centred_g, centred_f = g - (weight_m * g).sum(), f - (weight_c * f).sum()
        sampling = (np.clip(weight_m, 0, None) * centred_g**2).sum() / n_m
        sampling += (np.clip(weight_c, 0, None) * centred_f**2).sum() / n_c
        noise = (sigma_members / n_m) ** 2 * (centred_g**2).sum()
        noise += (sigma_controls / n_c) ** 2 * (centred_f**2).sum()
        return float(sampling + noise)

    null_sd = np.sqrt(variance(pooled, under_null, pooled, under_null))
    sd = np.maximum(null_sd, np.sqrt(variance(p, beats, q, beaten)))  # NaN stays one
    z = float(stats.norm.ppf(confidence))
    # No spread: everybody is in one cell, and the AUC is exactly one half.
    deviations = (auc - 0.5) / null_sd if null_sd > 0 else 0.0
    return AucEstimate(
        auc=_as_share(auc),
        p_value=float(stats.norm.sf(deviations)) if null_sd > 0 else 1.0,
        p_opposite=float(stats.norm.cdf(deviations)) if null_sd > 0 else 1.0,
        lower=_as_share(auc - z * float(sd)),
        upper=_as_share(auc + z * float(sd)),
    )


def _as_share(value: float) -> float:
    """Return the nearest number that an AUC can be: noise and a wide bound go beyond."""
    return float(np.clip(value, 0, 1))  # NaN stays one


def _share_after(shares: Float64Array) -> Float64Array:
    """Return for each cell the share in later cells plus half of its own."""
    return np.asarray(shares.sum() - np.cumsum(shares) + shares / 2, np.float64)
