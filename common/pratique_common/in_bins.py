"""Values inside the bins of a numeric column: a smooth curve, and heaps where they are known.

The bins' shares are the cumulative distribution at the bins' edges. A monotone cubic through these
points (Fritsch & Butland 1984, as in SciPy's PCHIP) is a density without steps at edges and without
spikes, which keeps every bin's share. It follows from what was released and costs no privacy.
Shares of sub-bins, where there are any, bend it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from pratique_common.binned_columns import BinnedColumn
from pratique_common.sub_bins import sub_edges

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

_POINTS = 257  # of a bin's inverse distribution; a bin of up to 256 integers has them all


def smooth_curve(
    column: BinnedColumn, shares: Float64Array
) -> Callable[[Float64Array], Float64Array]:
    """Return the cumulative distribution that ``shares`` of bins, (num_bins,), imply."""
    cumulative = np.concatenate([[0.0], np.cumsum(shares / max(shares.sum(), 1e-300))])
    curve = PchipInterpolator(column.stretch(column.open_edges()), cumulative)
    return lambda values: np.asarray(curve(column.stretch(values)), np.float64)


def draw_in_bins(
    column: BinnedColumn,
    bins_N: IntArray,
    shares: Float64Array,
    rng: np.random.Generator,
    *,
    within: Sequence[Float64Array] | None = None,
) -> Float64Array:
    """Return a value inside each bin, (N,), on the column's grid.

    Args:
        column: numeric.
        bins_N: from 0 to ``num_bins - 1``.
        shares: of all bins, (num_bins,); they need not sum to one.
        rng: need not be secret (post-processing).
        within: of each bin, what share of it each of its sub-bins has.
    """
    edges = column.open_edges()
    curve = smooth_curve(column, shares)
    cuts = None if within is None else sub_edges(column)
    values_N = np.empty(len(bins_N))
    for bin_ in np.unique(bins_N):
        rows = np.flatnonzero(bins_N == bin_)
        points = _points(column, edges[bin_ : bin_ + 2])
        if cuts is not None:
            points = np.union1d(points, cuts[bin_])
        mass = np.diff(curve(points)).clip(min=0)
        if cuts is not None and within is not None:
            mass = _bent(mass, points, cuts[bin_], within[bin_])
        if not mass.sum() > 0:
            mass = np.diff(points)
        below = np.concatenate([[0.0], np.cumsum(mass)])
        # One draw in each of as many equal parts: evener than independent draws.
        uniform = (rng.permutation(len(rows)) + rng.random(len(rows))) / len(rows)
        values_N[rows] = np.interp(uniform * below[-1], below, points)
    return _rounded(column, values_N, bins_N)


def _points(column: BinnedColumn, ends: Float64Array) -> Float64Array:
    if column.whole and ends[1] - ends[0] < _POINTS:
        return np.arange(ends[0], ends[1] + 1)
    low, high = column.stretch(ends)
    points = column.unstretch(np.linspace(low, high, _POINTS))
    points[[0, -1]] = ends
    return points


def _bent(
    mass: Float64Array, points: Float64Array, cuts: Float64Array, shares: Float64Array
) -> Float64Array:
    """Return masses between points such that sub-bins have their shares."""
    place = np.searchsorted(cuts, points[:-1], side="right") - 1
    present = np.bincount(place, mass, minlength=len(shares))
    mass = np.where(present[place] > 0, mass, np.diff(points))
    present = np.bincount(place, mass, minlength=len(shares))
    return np.asarray(mass / present[place] * shares[place], np.float64)


def _rounded(column: BinnedColumn, values_N: Float64Array, bins_N: IntArray) -> Float64Array:
    """Return values rounded down to the grid, each a value of its bin."""
    scale = 10.0**column.decimals_shown
    edges = np.rint(column.open_edges() * scale)
    place_N = np.floor(values_N * scale + 1e-6)
    return np.asarray(np.clip(place_N, edges[bins_N], edges[bins_N + 1] - 1) / scale)
