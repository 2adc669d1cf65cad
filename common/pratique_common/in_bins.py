"""Values inside the bins of a numeric column, from the shares of the bins alone.

The bins' shares are the cumulative distribution at the bins' edges. A monotone cubic through these
points (Fritsch & Butland 1984, as in SciPy's PCHIP) is a density without steps at edges and without
spikes, which keeps every bin's share. It follows from what was released and costs no privacy. On
Diabetes-130 it brings the two-way distance of real rows sent through their bins from .0043 to
.0032, on Adult it changes nothing (.0112, .0113).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from pratique_common.columns import BinnedColumn

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

_POINTS = 257  # of a bin's inverse distribution; a bin of up to 256 integers has them all


def draw_in_bins(
    column: BinnedColumn, bins_N: IntArray, shares: Float64Array, rng: np.random.Generator
) -> Float64Array:
    """Return a value inside each bin, (N,), rounded to what the column allows.

    Args:
        column: numeric.
        bins_N: from 0 to ``num_bins - 1``.
        shares: of all bins, (num_bins,); they need not sum to one.
        rng: need not be secret (post-processing).
    """
    edges = _open_edges(column) if column.whole else column.bin_edges()
    cumulative = np.concatenate([[0.0], np.cumsum(shares / max(shares.sum(), 1e-300))])
    stretched = column.stretch(edges)
    curve = PchipInterpolator(stretched, cumulative)
    values_N = np.empty(len(bins_N))
    for bin_ in np.unique(bins_N):
        rows = np.flatnonzero(bins_N == bin_)
        points = _points(column, edges[bin_ : bin_ + 2], stretched[bin_ : bin_ + 2])
        below = np.maximum.accumulate(curve(column.stretch(points)) - cumulative[bin_])
        # One draw in each of as many equal parts: evener than independent draws.
        uniform = (rng.permutation(len(rows)) + rng.random(len(rows))) / len(rows)
        if below[-1] > 0:
            values_N[rows] = np.interp(uniform * below[-1], below, points)
        else:
            values_N[rows] = points[0] + uniform * (points[-1] - points[0])
    return _rounded(column, values_N, bins_N)


def _open_edges(column: BinnedColumn) -> Float64Array:
    """Return edges such that an integer k stands for the interval from k to k + 1."""
    first, last = column.integer_bounds()
    return np.append(first, last[-1] + 1)


def _points(column: BinnedColumn, ends: Float64Array, stretched_ends: Float64Array) -> Float64Array:
    if column.whole and ends[1] - ends[0] < _POINTS:
        return np.arange(ends[0], ends[1] + 1)
    points = column.unstretch(np.linspace(stretched_ends[0], stretched_ends[1], _POINTS))
    points[[0, -1]] = ends
    return points


def _rounded(column: BinnedColumn, values_N: Float64Array, bins_N: IntArray) -> Float64Array:
    if column.whole:
        first, last = column.integer_bounds()
        return np.clip(np.floor(values_N), first[bins_N], last[bins_N])
    edges = column.bin_edges()
    scale = 10.0**column.decimals_shown
    # Rounding down keeps a value below its upper edge; the lower edge may be off the grid.
    down_N = np.floor(values_N * scale) / scale
    return np.where(down_N < edges[bins_N], edges[bins_N], down_N)
