"""Shares of a column's levels from their noised counts: post-processing, at no cost of privacy.

Empirical Bayes with a logistic normal prior: shares are softmax(f) with f ~ N(0, a² K), and the
noise of a count is known. K has the correlations of neighbouring bins of an ordered column, and
is the identity for levels without order. For each of a few a and K the likeliest f is found by
Newton's method, and how likely they make the counts by Laplace's approximation (MacKay 2003,
"Information theory, inference, and learning algorithms", ch. 27); shares are the mean of these
modes, each as likely as its a and K are. With noise of a tenth of the patients three quarters to
nine tenths of the error are left that the nearest distribution has (Duchi et al. 2008); figures are
in ADR 6. A column of 50 levels takes milliseconds, one of 2,000 ordered ones half a minute.

Sites derive what the coordinator derived, on other processors, so shares and errors are rounded to
a grid that is far above last bits and far below the noise. For that last bits have to stay last
bits: softmax does not change when all f grow alike, and curvature has next to nothing in that
direction, where many patients and little noise leave 10¹² of it in others. So a common shift has a
coordinate of its own here, and f are told from the largest one.

Shapes: M levels of one column.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from pratique_common.columns import AnyColumn, CategoricalColumn

Float64Array = NDArray[np.float64]

_SPREADS = (0.3, 0.6, 1.0, 1.5, 2.2, 3.3, 5.0)
"""a: from levels that hardly differ to those of which one in fifty thousand patients has one."""

_NEAR = ((2.0, 0.1), (5.0, 0.05))
"""Lengths, in bins, over which an ordered column's neighbours go together, and a bin's own part."""

_LEAST_ORDERED = 3
_MOST_STEPS, _LEAST_SCALE = 200, 1e-9
_LAST_STEP = 1e-8  # Newton's next one has its square: nothing is left of it in 64 bits
_LEAST_ERROR = 0.02  # of the noise: an error below is not believed
_LEAST_NOISE = 1e-6  # of the patients: below, shares are as good as exact
_GRID_BITS, _COARSEST_GRID = 10, 2.0**-20  # what shares are rounded to: of the noise, but no more
_ERROR_GRID = 2.0**-20  # of the noise


def ordered_levels(column: AnyColumn) -> int:
    """Return how many of a column's levels, its first ones, have an order."""
    if not isinstance(column, CategoricalColumn):
        return column.num_bins
    return len(column.categories) if column.ordered else 0


def correlation(num_levels: int, num_ordered: int, *, length: float, own: float) -> Float64Array:
    """Return the prior correlation of levels, (M, M); only ordered ones have neighbours.

    Args:
        num_levels: M.
        num_ordered: how many of them have an order.
        length: levels i and j of them have (1 - own) exp(-|i - j| / length).
        own: share of a level's variance that is its own.
    """
    position = np.arange(num_levels)
    near = (1 - own) * np.exp(-np.abs(position[:, None] - position) / length)
    near[num_ordered:] = near[:, num_ordered:] = 0
    np.fill_diagonal(near, 1.0)
    return np.asarray(near, np.float64)


def level_shares(
    counts_M: Float64Array, patients: float, noise: float, num_ordered: int
) -> tuple[Float64Array, Float64Array]:
    """Return shares of levels, (M,), at least 0 and of sum 1, and deviations of their counts, (M,).

    The deviations are those of errors that would be independent, as a fit takes them: with nothing
    known beforehand, the noise. As the sum is known, a single error is smaller by √(1 - 1 / M).

    Args:
        counts_M: noised.
        patients: whom they count.
        noise: deviation of a count's noise; above 0.
        num_ordered: how many of the levels, the first ones, have an order.
    """
    size, noise = len(counts_M), max(noise, _LEAST_NOISE * patients)
    kernels: list[Float64Array] = [np.eye(size)]
    if num_ordered >= _LEAST_ORDERED:
        kernels += [correlation(size, num_ordered, length=n, own=own) for n, own in _NEAR]
    found = []
    for kernel in kernels:
        precision = np.asarray(np.linalg.inv(kernel), np.float64)
        f_M = np.zeros(size)
        for spread in _SPREADS:
            fit = _Fit(counts_M, patients, noise, precision / spread**2)
            f_M = fit.likeliest(f_M)
            found.append(fit.evidence(f_M))
    shares, variances, evidences = (np.array(each) for each in zip(*found, strict=True))
    weights = np.exp(evidences - evidences.max())
    weights /= weights.sum()
    mean_M = weights @ shares
    between = patients**2 * (shares - mean_M) ** 2
    known = 1 - 1 / max(2, size)
    errors_M = np.sqrt(weights @ (variances + between) / known) / noise
    errors_M = (errors_M / _ERROR_GRID).round() * _ERROR_GRID
    return _rounded(mean_M, noise / patients), noise * errors_M.clip(min=_LEAST_ERROR)


def _rounded(shares_M: Float64Array, noise: float) -> Float64Array:
    """Return shares of sum 1 on a grid of a power of two: their sums have no last bits to lose."""
    step = min(_COARSEST_GRID, 2.0 ** (np.floor(np.log2(noise)) - _GRID_BITS))
    rounded_M = np.asarray((shares_M / step).round() * step, np.float64)
    rounded_M[shares_M.argmax()] += 1 - rounded_M.sum()
    return rounded_M


class _Fit:
    """The posterior of f for one prior, given by its precision (M, M)."""

    def __init__(
        self, counts_M: Float64Array, patients: float, noise: float, precision_MM: Float64Array
    ) -> None:
        self._share_M, self._precision = counts_M / patients, precision_MM
        self._patients, self._slope = patients, (patients / noise) ** 2

    def likeliest(self, f_M: Float64Array) -> Float64Array:
        """Return the f that the posterior has its mode at, from a first one."""
        energy = self._energy(f_M)
        for _ in range(_MOST_STEPS):
            step_M = self._newton(f_M)
            if np.abs(step_M).max() < _LAST_STEP:  # too short for energies to tell
                return f_M + step_M
            scale = 1.0
            while (tried := self._energy(f_M + scale * step_M)) > energy * (1 + 1e-12):
                scale /= 2
                if scale < _LEAST_SCALE:
                    return f_M
            f_M, energy = f_M + scale * step_M, tried
        return f_M

    def evidence(self, f_M: Float64Array) -> tuple[Float64Array, Float64Array, float]:
        """Return shares, variances of their counts, and the logarithm of the evidence."""
        p_M = _softmax(f_M)
        largest = int(p_M.argmax())
        moved_MM = np.diag(p_M) - np.outer(p_M, p_M)
        moved_MM[largest] = 0  # by a common shift nothing moves
        factor = cho_factor(self._told_from(largest, self._curvature(p_M)))
        variance_M = self._patients**2 * (moved_MM * cho_solve(factor, moved_MM)).sum(0)
        half_determinant = np.log(np.diag(factor[0])).sum()
        of_prior = np.linalg.slogdet(self._precision)[1] / 2
        return p_M, variance_M, float(of_prior - half_determinant - self._energy(f_M))

    def _energy(self, f_M: Float64Array) -> float:
        rest_M = _softmax(f_M) - self._share_M
        return float(self._slope * rest_M @ rest_M + f_M @ self._precision @ f_M) / 2

    def _newton(self, f_M: Float64Array) -> Float64Array:
        p_M = _softmax(f_M)
        largest = int(p_M.argmax())
        rest_M = p_M - self._share_M
        turned_M = p_M * (rest_M - p_M @ rest_M)  # softmax's derivative, of the rest
        of_prior_M = self._precision @ f_M
        gradient_M = self._slope * turned_M + of_prior_M
        gradient_M[largest] = of_prior_M.sum()
        curvature_MM = self._curvature(p_M)
        # The rest's own part may bend the other way, far from the mode.
        mixed_MM = np.outer(turned_M, p_M)
        bent_MM = self._slope * (np.diag(turned_M) - mixed_MM - mixed_MM.T)
        try:
            factor = cho_factor(self._told_from(largest, curvature_MM + bent_MM))
        except LinAlgError:
            factor = cho_factor(self._told_from(largest, curvature_MM))
        step_M = np.asarray(-cho_solve(factor, gradient_M))
        shift = step_M[largest]
        step_M += shift
        step_M[largest] = shift
        return step_M

    def _curvature(self, p_M: Float64Array) -> Float64Array:
        """Return (n / noise)² G², with G = diag(p) - p pᵀ."""
        sums_MM = (p_M @ p_M) - p_M[:, None] - p_M
        return np.asarray(self._slope * (np.diag(p_M**2) + np.outer(p_M, p_M) * sums_MM))

    def _told_from(self, largest: int, of_counts_MM: Float64Array) -> Float64Array:
        """Return a curvature of the counts with the prior's, in other coordinates, (M, M).

        The largest level's is a shift of all f; the others' are f without it. The counts know of no
        shift. The change of coordinates has the determinant 1, so evidence may be taken here.
        """
        whole_MM = of_counts_MM + self._precision
        whole_MM[largest] = whole_MM[:, largest] = self._precision.sum(0)
        whole_MM[largest, largest] = self._precision.sum()
        return whole_MM


def _softmax(f_M: Float64Array) -> Float64Array:
    powers_M = np.exp(f_M - f_M.max())
    return np.asarray(powers_M / powers_M.sum())
