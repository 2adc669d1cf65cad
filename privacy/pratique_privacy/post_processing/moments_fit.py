"""From noised counts to a distribution of phantoms: post-processing at no further cost.

Shapes: M phantoms of one class, F = S·K cells, L levels of the target, S statistics, K bins.
"""

import hashlib
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from pratique_common.generators.sim_moments import SimMomentsGenerator
from pratique_common.study import StudySpec

Float64Array = NDArray[np.float64]

_LEAST_SHARE = 0.25
"""Of a class's phantoms that weights must leave, as an effective number: the rest is for the next
generation."""

_MOST_DOUBLINGS = 24
"""With 4,000 phantoms far from patients and little noise, 2¹² already left fewer than that."""

_DEVIATIONS = 2.0
"""Of χ² by which it must be beyond what noise gives, before anything is learnt at all."""


class MomentsFit:
    """Weighs phantoms until counts agree, and draws the next generation from the weighted."""

    def __init__(self, study: StudySpec, generator: SimMomentsGenerator) -> None:
        self._generator = generator
        self._learnt = hashlib.sha256(study.digest.encode())

    def update(self, total: Float64Array, noise: float, *, site_share: float = 1.0) -> None:
        """Take an opened sum of votes for cells, (L·S·K,); ``site_share`` changes no proportion."""
        del site_share
        # Draws follow from all counts so far: nobody chooses them.
        self._learnt.update(total.astype("<f8").tobytes())
        rng = np.random.default_rng(int.from_bytes(self._learnt.digest()[:8]))
        generator = self._generator
        generator.load_state(generator.state())  # the cuts that these counts are of
        num_levels, num_statistics, num_bins = generator.cells
        counts_LF = total.reshape(num_levels, num_statistics * num_bins)
        # All bins of a number hold a class's patients; fewer than the noise of a cell are none.
        patients_L = np.maximum(counts_LF.sum(1) / num_statistics, noise)
        for number in range(generator.settings.generations + 1):
            if number:
                generator.show(generator.descendants(generator.class_of, rng))
            weight_M = np.zeros(len(generator.class_of))
            cells_MF = self._cells()
            for level, patients in enumerate(patients_L):
                own = np.flatnonzero(generator.class_of == level)
                wanted_SK = counts_LF[level].reshape(num_statistics, num_bins) / patients
                weight_M[own] = weights_for(cells_MF[own], whole(wanted_SK), noise / patients)
            generator.keep(generator.scenes, weight_M)
            if all(np.ptp(weight_M[generator.class_of == n]) == 0 for n in range(num_levels)):
                break  # they agree: another generation would be another sample, and no nearer

    def _cells(self) -> Float64Array:
        """Return the present generation's cells as 0 and 1, (all phantoms, F)."""
        _, _, num_bins = self._generator.cells
        bins_MS = self._generator.bins_of(self._generator.statistics)
        return np.eye(num_bins)[bins_MS].reshape(len(bins_MS), -1)

    def finish(self) -> None:
        """Do nothing: the last round's weights decided."""


def whole(shares_SK: Float64Array) -> Float64Array:
    """Return shares as those of one class's patients, who are all in some bin, flat (F,).

    Each number's are moved alike until they add up to one: what noise alone made of their sum
    would look like patients.
    """
    beyond_S1 = shares_SK.sum(1, keepdims=True) - 1
    return np.asarray((shares_SK - beyond_S1 / shares_SK.shape[1]).ravel(), np.float64)


def weights_for(cells_MF: Float64Array, wanted_F: Float64Array, noise: float) -> Float64Array:
    """Return the weights of phantoms that make their mean cells what is wanted, (M,), sum 1.

    Of all weights within reach those of most entropy: least of the relative entropy to equal ones
    plus χ² / 2f. From 2²⁴ on f is halved, down to 1; but not once χ² of the counts' noise is as
    small as noise alone would make it, the number of free cells (Gull & Skilling 1984, IEE Proc F
    131:646), nor where less than an effective quarter of the phantoms would be left. Equal weights
    stay where χ² is no sign of anything else.

    Args:
        cells_MF: 0 and 1, one of each number's bins.
        wanted_F: shares of patients, noised, ``whole``.
        noise: their deviation.
    """
    num = len(cells_MF)
    # M phantoms are a sample, too: a share p of them has a variance of p (1 - p) / M.
    mean_F = cells_MF.mean(0)
    variance_F = noise**2 + np.maximum(mean_F * (1 - mean_F), 1 / num) / num
    free = len(wanted_F) - int(cells_MF[0].sum())  # the last bin of a number follows from others
    equal = np.full(num, 1 / num)
    if _chi_squared(equal, cells_MF, wanted_F, noise) <= free + _DEVIATIONS * sqrt(2 * free):
        return equal
    best, multiplier_F = equal, np.zeros(len(wanted_F))
    for doublings in range(_MOST_DOUBLINGS, -1, -1):
        multiplier_F = _multipliers(cells_MF, wanted_F, variance_F * 2.0**doublings, multiplier_F)
        weights = _softmax(cells_MF @ multiplier_F)[0]
        if 1 / np.square(weights).sum() < _LEAST_SHARE * num:
            break
        best = weights
        if _chi_squared(weights, cells_MF, wanted_F, noise) <= free:
            break
    return best


def _chi_squared(
    weights_M: Float64Array, cells_MF: Float64Array, wanted_F: Float64Array, noise: float
) -> float:
    return float(np.square((weights_M @ cells_MF - wanted_F) / noise).sum())


def _multipliers(
    cells_MF: Float64Array, wanted_F: Float64Array, variance_F: Float64Array, start_F: Float64Array
) -> Float64Array:
    """Return the powers of the weights of least relative entropy to equal ones plus χ² / 2, (F,).

    They minimise the dual, a smooth convex function of one multiplier a cell.
    """

    def dual(multiplier_F: Float64Array) -> tuple[float, Float64Array]:
        weights, log_mean = _softmax(cells_MF @ multiplier_F)
        spread_F = variance_F * multiplier_F
        value = log_mean + float((spread_F / 2 - wanted_F) @ multiplier_F)
        return value, weights @ cells_MF - wanted_F + spread_F

    found = minimize(dual, start_F, jac=True, method="L-BFGS-B")
    return np.asarray(found.x, np.float64)


def _softmax(exponent_M: Float64Array) -> tuple[Float64Array, float]:
    """Return e to these powers over their sum, and the logarithm of their mean."""
    largest = exponent_M.max()
    powers = np.exp(exponent_M - largest)
    return powers / powers.sum(), float(largest + np.log(powers.mean()))
