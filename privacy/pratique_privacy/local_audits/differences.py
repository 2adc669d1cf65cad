"""Intervals of what members have beyond controls, one-sided bounds of 95 % on either side."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pratique_privacy.audits.family import BOUND_CONFIDENCE

Float64Array = NDArray[np.float64]
Interval = tuple[float, float]

Z = float(stats.norm.ppf(BOUND_CONFIDENCE))

_LEAST_FOR_A_MEDIAN = 5
"""Of fewer even the least is above the median in more than one draw of twenty, 1 / 2ⁿ."""


def of_means(members: Float64Array, controls: Float64Array) -> Interval | None:
    """Return bounds of the difference of means, by Welch's variance; None of a single patient."""
    if min(len(members), len(controls)) < 2:
        return None
    variance = members.var(ddof=1) / len(members) + controls.var(ddof=1) / len(controls)
    return _around(float(members.mean() - controls.mean()), float(np.sqrt(variance)))


def of_medians(members: Float64Array, controls: Float64Array) -> Interval | None:
    """Return bounds of the difference of medians; None of fewer than five patients.

    Those of each are order statistics; they are joined by squares (Newcombe 1998, Statistics in
    Medicine 17:873).
    """
    if min(len(members), len(controls)) < _LEAST_FOR_A_MEDIAN:
        return None
    (low_m, m, high_m), (low_c, c, high_c) = map(_median, (members, controls))
    return (
        m - c - float(np.hypot(m - low_m, high_c - c)),
        m - c + float(np.hypot(high_m - m, c - low_c)),
    )


def _median(values: Float64Array) -> tuple[float, float, float]:
    rank = stats.binom.ppf(1 - BOUND_CONFIDENCE, len(values), 0.5)
    low = int(rank) - 1
    in_order = np.sort(values)
    return float(in_order[low]), float(np.median(values)), float(in_order[len(values) - 1 - low])


def of_auc(members: Float64Array, controls: Float64Array) -> Interval:
    """Return bounds of how much oftener than half a member has more (DeLong et al. 1988)."""
    both = np.concatenate([members, controls])
    rank, num = stats.rankdata(both), len(members)
    beats = (rank[:num] - stats.rankdata(members)) / len(controls)
    beaten = 1 - (rank[num:] - stats.rankdata(controls)) / num
    variance = beats.var(ddof=1) / num + beaten.var(ddof=1) / len(controls)
    return _around(float(beats.mean()) - 0.5, float(np.sqrt(variance)))


def _around(difference: float, deviation: float) -> Interval:
    return difference - Z * deviation, difference + Z * deviation
