"""Intervals of what members have beyond controls, one-sided bounds of 95 % on either side."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pratique_privacy.audits.family import BOUND_CONFIDENCE

Float64Array = NDArray[np.float64]
Interval = tuple[float, float]

Z = float(stats.norm.ppf(BOUND_CONFIDENCE))


def of_means(members: Float64Array, controls: Float64Array) -> Interval | None:
    """Return bounds of the difference of means, by Welch's variance; None of a single patient."""
    if min(len(members), len(controls)) < 2:
        return None
    variance = members.var(ddof=1) / len(members) + controls.var(ddof=1) / len(controls)
    return _around(float(members.mean() - controls.mean()), float(np.sqrt(variance)))


def of_medians(members: Float64Array, controls: Float64Array) -> Interval:
    """Return bounds of the difference of medians.

    Those of each are order statistics; they are joined by squares (Newcombe 1998, Statistics in
    Medicine 17:873).
    """
    (low_m, m, high_m), (low_c, c, high_c) = map(_median, (members, controls))
    return (
        m - c - float(np.hypot(m - low_m, high_c - c)),
        m - c + float(np.hypot(high_m - m, c - low_c)),
    )


def _median(values: Float64Array) -> tuple[float, float, float]:
    rank = stats.binom.ppf(1 - BOUND_CONFIDENCE, len(values), 0.5)
    low = max(int(rank) - 1, 0)
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
