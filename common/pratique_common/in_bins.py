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


class ValuesInBins:
    """Draws values inside the bins of one column, on its grid."""

    def __init__(
        self,
        column: BinnedColumn,
        shares: Float64Array,
        within: Sequence[Float64Array] | None = None,
    ) -> None:
        """Take what shapes the density.

        Args:
            column: numeric.
            shares: of all bins, (num_bins,); they need not sum to one.
            within: of each bin, what share of it each of its sub-bins has.
        """
        self._column, self._edges = column, column.open_edges()
        self._curve = smooth_curve(column, shares)
        self._within = None if within is None else (sub_edges(column), within)
        self._by_bin: dict[int, tuple[Float64Array, Float64Array]] = {}

    def draw(self, bins_N: IntArray, rng: np.random.Generator) -> Float64Array:
        """Return a value inside each bin, (N,).

        Args:
            bins_N: from 0 to ``num_bins - 1``.
            rng: need not be secret (post-processing).
        """
        values_N = np.empty(len(bins_N))
        for bin_ in np.unique(bins_N).tolist():
            rows = np.flatnonzero(bins_N == bin_)
            points, below = self._by_bin.get(bin_) or self._distribution(bin_)
            # One draw in each of as many equal parts: evener than independent draws.
            uniform = (rng.permutation(len(rows)) + rng.random(len(rows))) / len(rows)
            values_N[rows] = np.interp(uniform * below[-1], below, points)
        return _rounded(self._column, values_N, bins_N)

    def on_grid(
        self, values_N: Float64Array, bins_N: IntArray
    ) -> tuple[Float64Array, NDArray[np.bool_]]:
        """Return the nearest values of the grid, (N,), and which lie in the bins.

        Args:
            values_N: may be NaN, which lies in no bin.
            bins_N: negative where a row has none.
        """
        scale = 10.0**self._column.decimals_shown
        edges = np.rint(self._edges * scale)
        place_N = np.rint(values_N * scale)
        inside_N = (place_N >= edges[bins_N]) & (place_N < edges[bins_N + 1]) & (bins_N >= 0)
        return place_N / scale, inside_N

    def _distribution(self, bin_: int) -> tuple[Float64Array, Float64Array]:
        """Return points inside a bin, and the mass below each."""
        points = _points(self._column, self._edges[bin_ : bin_ + 2])
        if self._within is not None:
            points = np.union1d(points, self._within[0][bin_])
        mass = np.diff(self._curve(points)).clip(min=0)
        if self._within is not None:
            mass = _bent(mass, points, *(each[bin_] for each in self._within))
        if not mass.sum() > 0:
            mass = np.diff(points)
        self._by_bin[bin_] = points, np.concatenate([[0.0], np.cumsum(mass)])
        return self._by_bin[bin_]


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
