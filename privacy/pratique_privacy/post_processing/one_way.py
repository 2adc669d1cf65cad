"""What the histogram round tells: post-processing of its noised sum.

Shapes: D columns, S sub-bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pratique_common.binned_columns import BinnedColumn
from pratique_common.in_bins import smooth_curve
from pratique_common.study import StudySpec
from pratique_common.sub_bins import SubBins, sub_edges
from pratique_privacy.post_processing.heaps import with_heaps
from pratique_privacy.post_processing.level_shares import level_shares, ordered_levels

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class OneWay:
    """One-way distributions of all columns.

    Attributes:
        marginals: shares of levels, one array for each column that the generator learns.
        patients: number of members, estimated.
        noise: deviation of the noise of a level's count.
        errors: deviations of shares times patients from the true counts, (C,) for all levels.
        within: what share of its bin each sub-bin has, (S,); None if nothing is known.
    """

    marginals: list[Float64Array]
    patients: float = 1.0
    noise: float = 1.0
    within: Float64Array | None = None
    errors: Float64Array = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, study: StudySpec, total: Float64Array, noises: Sequence[float]) -> "OneWay":
        """Read the noised sum.

        Args:
            study: the study.
            total: levels of all columns, then sub-bins.
            noises: deviation of the noise of a level's count and, if there are sub-bins, of theirs.
        """
        columns = study.data.trained.columns
        *histograms, fine_S = np.split(total, np.cumsum([c.num_levels for c in columns]))
        # Every column counts the same patients: the mean of the sums is their best estimate.
        patients = max(1.0, float(np.mean([histogram.sum() for histogram in histograms])))
        found = [
            level_shares(histogram, patients, noises[0], ordered_levels(column))
            for column, histogram in zip(columns, histograms, strict=True)
        ]
        marginals, errors = (list(each) for each in zip(*found, strict=True))
        within = None
        if fine_S.size:
            within = _within(study, fine_S, patients, marginals, noises[1])
        return cls(marginals, patients, noises[0], within, np.concatenate(errors))


def smoothed(marginal: Float64Array, study: StudySpec) -> Float64Array:
    """Return a marginal without zeros, to start a generator from."""
    floor = 0.2 / study.expected_members
    return np.asarray((marginal + floor) / (marginal + floor).sum(), np.float64)


def _within(
    study: StudySpec,
    fine_S: Float64Array,
    patients: float,
    marginals: Sequence[Float64Array],
    noise: float,
) -> Float64Array:
    """Return what share of its bin each sub-bin has, (S,)."""
    shares: list[Float64Array] = []
    for name, counts in SubBins(study.data.columns).by_bin(fine_S).items():
        column = study.data.column(name)
        assert isinstance(column, BinnedColumn)
        marginal = marginals[study.data.names.index(name)][: column.num_bins]
        curve = smooth_curve(column, marginal)
        smooth = [_shares_of(curve(edges), edges) for edges in sub_edges(column)]
        shares += with_heaps(smooth, counts, marginal * patients, noise)
    return np.concatenate(shares)


def _shares_of(cumulative: Float64Array, edges: Float64Array) -> Float64Array:
    mass = np.diff(cumulative).clip(min=0)
    if not mass.sum() > 0:
        mass = np.diff(edges)
    return np.asarray(mass / mass.sum(), np.float64)
