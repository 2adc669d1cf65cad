"""Exact draws of the discrete Gaussian N_Z(0, 4ˢ), many at a time, from the system's entropy.

Canonne, Kamath, Steinke, "The discrete Gaussian for differential privacy", arXiv 2004.00010v5,
algorithms 1-3, with σ = t = 2ˢ. Then every probability that is needed is exp(-a / 2ᵇ) with integers
a and b, and whole arrays are drawn in exact 64-bit integer arithmetic: no floating-point number
takes part, so none can give a value away (Mironov 2012).
"""

import os

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
WordArray = NDArray[np.uint64]
BoolArray = NDArray[np.bool_]

MAX_LOG2_SIGMA = 24
"""Squares of candidates below 2³¹ fit a word; one of σ = 2²⁴ is larger with probability e⁻¹²⁸."""

_CANDIDATE_LIMIT = 1 << 31
_CHUNK = 1 << 16  # arrays of this size stay in a core's cache


def discrete_gaussian(size: int, log2_sigma: int) -> IntArray:
    """Return ``size`` independent draws, P(x) ∝ exp(-x² / (2 · 4ˢ)) (algorithm 3).

    No generator with a seed stands behind them: no state can be guessed, shared between two
    sites, copied by a fork or repeated.

    Args:
        size: number of draws.
        log2_sigma: s, from 0 to ``MAX_LOG2_SIGMA``.

    Raises:
        ValueError: s is out of range.
    """
    if not 0 <= log2_sigma <= MAX_LOG2_SIGMA:
        raise ValueError(f"log2_sigma must lie between 0 and {MAX_LOG2_SIGMA}")
    draws = np.empty(size, np.int64)
    for start in range(0, size, _CHUNK):
        part = draws[start : start + _CHUNK]
        missing = np.arange(part.size)
        while missing.size:
            candidate = _discrete_laplace(missing.size, log2_sigma)
            fits = np.abs(candidate) < _CANDIDATE_LIMIT
            excess = np.where(fits, np.abs(candidate) - (1 << log2_sigma), 0)
            accepted = _bernoulli_exp((excess * excess).astype(np.uint64), 2 * log2_sigma + 1)
            accepted &= fits
            part[missing[accepted]] = candidate[accepted]
            missing = missing[~accepted]
    return draws


def _discrete_laplace(size: int, log2_scale: int) -> IntArray:
    """P(x) ∝ exp(-|x| / 2ˢ): algorithm 2."""
    draws = np.empty(size, np.int64)
    missing = np.arange(size)
    while missing.size:
        bits = _random_bits(missing.size, log2_scale + 1)
        remainder = bits >> np.uint64(1)
        accepted = _bernoulli_exp_of_fraction(remainder, log2_scale)
        chosen = np.flatnonzero(accepted)
        magnitude = remainder[chosen].astype(np.int64) + (_geometric(chosen.size) << log2_scale)
        negative = (bits[chosen] & np.uint64(1)).astype(np.bool_)
        twice = negative & (magnitude == 0)  # zero has one sign only
        accepted[chosen[twice]] = False
        draws[missing[accepted]] = np.where(negative, -magnitude, magnitude)[~twice]
        missing = missing[~accepted]
    return draws


def _geometric(size: int) -> IntArray:
    """P(v) = (1 - 1/e) e⁻ᵛ: how often Bernoulli(exp(-1)) succeeds in a row."""
    successes = np.zeros(size, np.int64)
    running = np.arange(size)
    while running.size:
        running = running[_bernoulli_exp_of_one(running.size)]
        successes[running] += 1
    return successes


def _bernoulli_exp(numerator: WordArray, log2_denominator: int) -> BoolArray:
    """Bernoulli(exp(-a / 2ᵇ)) for any a ≥ 0: algorithm 1, whole part first."""
    whole = numerator >> np.uint64(log2_denominator)
    fraction = numerator & np.uint64((1 << log2_denominator) - 1)
    alive = np.ones(numerator.size, np.bool_)
    running, done = np.flatnonzero(whole), 0
    while running.size:
        success = _bernoulli_exp_of_one(running.size)
        alive[running[~success]] = False
        done += 1
        running = running[success & (whole[running] > done)]
    survivors = np.flatnonzero(alive)
    alive[survivors] = _bernoulli_exp_of_fraction(fraction[survivors], log2_denominator)
    return alive


def _bernoulli_exp_of_one(size: int) -> BoolArray:
    """γ = 1: trial 1 always succeeds, and trial k with probability 1 / k."""
    result = np.empty(size, np.bool_)
    running, trial = np.arange(size), 2
    while running.size:
        success = _one_in(trial, running.size)
        result[running[~success]] = trial % 2 == 1
        running = running[success]
        trial += 1
    return result


def _bernoulli_exp_of_fraction(numerator: WordArray, log2_denominator: int) -> BoolArray:
    """Bernoulli(exp(-γ)) for γ = a / 2ᵇ ≤ 1: algorithm 1.

    Trial k succeeds with probability γ / k; the answer is whether the first failure is at an odd k.
    """
    result = np.zeros(numerator.size, np.bool_)
    running, trial = np.arange(numerator.size), 1
    while running.size:
        success = _random_bits(running.size, log2_denominator) < numerator[running]
        if trial > 1:
            candidates = np.flatnonzero(success)
            success[candidates] = _one_in(trial, candidates.size)
        result[running[~success]] = trial % 2 == 1
        running = running[success]
        trial += 1
    return result


def _one_in(k: int, size: int) -> BoolArray:
    """Bernoulli(1 / k), exactly: words above the last multiple of k are drawn again."""
    share = (1 << 32) // k
    words = np.frombuffer(os.urandom(4 * size), np.uint32)
    result = words < share
    # For a power of two no word is above; comparing with 2³² itself would not fit 32 bits.
    missing = np.flatnonzero(words > share * k - 1)
    while missing.size:
        again = np.frombuffer(os.urandom(4 * missing.size), np.uint32)
        result[missing] = again < share
        missing = missing[again > share * k - 1]
    return result


def _random_bits(size: int, num_bits: int) -> WordArray:
    """Uniform integers of ``num_bits`` bits; none are zeros."""
    if num_bits == 0:
        return np.zeros(size, np.uint64)
    return np.frombuffer(os.urandom(8 * size), np.uint64) >> np.uint64(64 - num_bits)
