"""What the histogram round tells: post-processing of its noised sum.

Shapes: D columns, S sub-bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray

from pratique_common.binned_columns import BinnedColumn
from pratique_common.in_bins import smooth_curve
from pratique_common.study import StudySpec
from pratique_common.sub_bins import SubBins, sub_edges

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class OneWay:
    """One-way distributions of all columns.

    Attributes:
        marginals: shares of levels, one array for each column that the generator learns.
        patients: number of members, estimated.
        noise: deviation of the noise of a level's count.
        within: what share of its bin each sub-bin has, (S,); None if nothing is known.
    """

    marginals: list[Float64Array]
    patients: float = 1.0
    noise: float = 1.0
    within: Float64Array | None = None

    @classmethod
    def of(cls, study: StudySpec, total: Float64Array, noises: Sequence[float]) -> "OneWay":
        """Read the noised sum.

        Args:
            study: the study.
            total: levels of all columns, then sub-bins.
            noises: deviation of the noise of a level's count and, if there are sub-bins, of theirs.
        """
        levels = [column.num_levels for column in study.data.trained.columns]
        *histograms, fine_S = np.split(total, np.cumsum(levels))
        # Every column counts the same patients: the mean of the sums is their best estimate.
        patients = max(1.0, float(np.mean([histogram.sum() for histogram in histograms])))
        marginals = [_project(histogram, patients) / patients for histogram in histograms]
        within = None
        if fine_S.size:
            within = _within(study, fine_S, patients, marginals, noises[1])
        return cls(marginals, patients, noises[0], within)


def smoothed(marginal: Float64Array, study: StudySpec) -> Float64Array:
    """Return a marginal without zeros, to start a generator from."""
    floor = 0.2 / study.expected_members
    return np.asarray((marginal + floor) / (marginal + floor).sum(), np.float64)


def _project(histogram: Float64Array, size: float) -> Float64Array:
    """Return the nearest non-negative histogram that sums to ``size`` (Euclidean).

    Unlike cutting off negative counts, it does not favour rare levels (Duchi et al. 2008).
    """
    descending = np.sort(histogram)[::-1]
    excess = np.cumsum(descending) - size
    rank = np.arange(1, len(histogram) + 1)
    last = np.flatnonzero(descending - excess / rank > 0)[-1]
    return np.asarray(np.maximum(histogram - excess[last] / (last + 1), 0.0), np.float64)


def _within(
    study: StudySpec,
    fine_S: Float64Array,
    patients: float,
    marginals: Sequence[Float64Array],
    noise: float,
) -> Float64Array:
    """Return what share of its bin each sub-bin has, (S,), in float32's precision."""
    finer, shares = SubBins(study.data), []
    for name, counts in finer.by_bin(fine_S).items():
        column = study.data.column(name)
        assert isinstance(column, BinnedColumn)
        marginal = marginals[study.data.names.index(name)][: column.num_bins]
        curve = smooth_curve(column, marginal)
        for edges, seen, share in zip(sub_edges(column), counts, marginal, strict=True):
            smooth = np.diff(curve(edges)).clip(min=0)
            if not smooth.sum() > 0:
                smooth = np.diff(edges)
            shares.append(_heaps(seen / patients, smooth / smooth.sum(), share, noise / patients))
    # What a bundle holds is what the candidate is drawn with.
    return np.concatenate(shares).astype(np.float32).astype(np.float64)


def _heaps(seen: Float64Array, smooth: Float64Array, share: float, noise: float) -> Float64Array:
    """Return the shares of one bin's sub-bins: the smooth ones unless noise cannot explain it.

    A bin is halved again and again; how its share falls to both halves is as in the smooth curve
    unless the noised counts differ by more than noise does in all of a bin's halvings. This is the
    universal threshold of Donoho & Johnstone (1994) on unbalanced Haar coefficients.

    Args:
        seen: noised shares of all patients.
        smooth: expected shares of the bin's, summing to one.
        share: the bin's of all patients.
        noise: deviation of ``seen``.
    """
    if not share > 0:
        return smooth
    threshold = sqrt(2 * log(len(seen))) * noise
    result = np.empty(len(seen))
    todo = [(0, len(seen), share)]
    while todo:
        low, high, total = todo.pop()
        if high - low == 1:
            result[low] = total
            continue
        middle = (low + high) // 2
        both = smooth[low:high].sum()
        left = smooth[low:middle].sum() / both if both > 0 else (middle - low) / (high - low)
        excess = (1 - left) * seen[low:middle].sum() - left * seen[middle:high].sum()
        deviation = sqrt((1 - left) ** 2 * (middle - low) + left**2 * (high - middle))
        part = total * left
        if abs(excess) > threshold * deviation:
            part = min(max(part + excess, 0.0), total)
        todo += [(low, middle, part), (middle, high, total - part)]
    return result / share
