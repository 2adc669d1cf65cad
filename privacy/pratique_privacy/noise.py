"""The only source of noise that protects patients: the operating system's entropy.

No generator with a seed stands behind any of these numbers, so no state can be guessed, shared
between two sites, copied by a fork or repeated in another round.
"""

import os
import secrets
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

GRID_STEPS_PER_SIGMA = 4096
"""Released sums are multiples of σ / 4096: coarse against float64's own grid (so that its low bits
tell nothing, Mironov 2012), fine against the noise (it adds 5e-9 to the relative variance)."""

_SUMMANDS = 4
_SIGMA_DENOMINATOR = 1 << 12


def uniform(size: int) -> Float64Array:
    """Return uniform numbers strictly between 0 and 1, on a grid of 2⁻⁵³."""
    words = np.frombuffer(os.urandom(8 * size), np.uint64)
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def poisson_sample(num_units: int, sample_rate: float) -> NDArray[np.bool_]:
    """Return for each unit whether it is in the batch: independent coins, possibly none."""
    return uniform(num_units) < sample_rate


def gaussian(size: int, sigma: float) -> Float64Array:
    """Return independent N(0, σ²) draws.

    Each is the sum of four normal draws halved, which makes guessing the floating-point grid of
    one draw from the output infeasible (Holohan & Braghin 2021, "Secure random sampling in
    differential privacy"; the method of Opacus' ``secure_mode``).
    """
    normals = ndtri(uniform(size * _SUMMANDS)).reshape(_SUMMANDS, size)
    return np.asarray(normals.sum(0) * (sigma / np.sqrt(_SUMMANDS)), np.float64)


def grid_step(sigma: float) -> float:
    """Return the public grid on which a sum with noise of deviation σ is released."""
    return sigma / GRID_STEPS_PER_SIGMA


def noised_on_grid(total: Float64Array, sigma: float) -> IntArray:
    """Add N(0, σ²) to every coordinate and return whole grid steps.

    Rounding is post-processing. Multiply by ``grid_step(sigma)`` to read the sum. This is the
    seam at which a secure sum takes over: what leaves is a vector of integers.

    Raises:
        ValueError: the sum is not finite.
    """
    if not np.isfinite(total).all():
        raise ValueError("a sum that is no number cannot be protected by noise")
    noised = total + gaussian(total.size, sigma).reshape(total.shape)
    return np.rint(noised / grid_step(sigma)).astype(np.int64)


def representable_sigma(sigma: float) -> float:
    """Return σ rounded up to the grid on which ``discrete_gaussian`` is exact."""
    return float(np.ceil(sigma * _SIGMA_DENOMINATOR) / _SIGMA_DENOMINATOR)


def discrete_gaussian(size: int, sigma: float) -> IntArray:
    """Return exact draws of the discrete Gaussian N_Z(0, σ²), for counts.

    Canonne, Kamath, Steinke, "The discrete Gaussian for differential privacy", arXiv 2004.00010v5,
    algorithms 1-3, in exact rational arithmetic. Its Rényi divergence is at most the continuous
    Gaussian's (their theorem 4).

    Args:
        size: number of draws.
        sigma: a value of ``representable_sigma``.

    Raises:
        ValueError: σ is not positive or not on the grid.
    """
    exact = Fraction(sigma)
    if exact <= 0 or (exact * _SIGMA_DENOMINATOR).denominator != 1:
        raise ValueError("sigma must be positive and come from representable_sigma")
    return np.array([_discrete_gaussian(exact) for _ in range(size)], np.int64)


def _bernoulli(p: Fraction) -> bool:
    return secrets.randbelow(p.denominator) < p.numerator


def _bernoulli_exp(gamma: Fraction) -> bool:
    """Bernoulli(exp(-γ)) for γ ≥ 0: algorithm 1."""
    while gamma > 1:
        if not _bernoulli_exp(Fraction(1)):
            return False
        gamma -= 1
    k = 1
    while _bernoulli(gamma / k):
        k += 1
    return k % 2 == 1


def _discrete_laplace(scale: int) -> int:
    """P(x) ∝ exp(-|x| / scale): algorithm 2."""
    while True:
        remainder = secrets.randbelow(scale)
        if not _bernoulli_exp(Fraction(remainder, scale)):
            continue
        quotient = 0
        while _bernoulli_exp(Fraction(1)):
            quotient += 1
        magnitude = remainder + scale * quotient
        negative = bool(secrets.randbits(1))
        if magnitude or not negative:
            return -magnitude if negative else magnitude


def _discrete_gaussian(sigma: Fraction) -> int:
    """Algorithm 3."""
    scale = int(sigma) + 1
    variance = sigma * sigma
    while True:
        candidate = _discrete_laplace(scale)
        if _bernoulli_exp((abs(candidate) - variance / scale) ** 2 / (2 * variance)):
            return candidate
