"""Heaps of values inside bins: where a noised, finer histogram shows more than noise.

A bin is halved again and again. How its share falls to both halves is as a smooth curve says,
unless the noised counts say otherwise by more than noise does: thresholds on unbalanced Haar
coefficients (Donoho & Johnstone 1994), with one threshold a column by empirical Bayes.
"""

from collections.abc import Sequence
from math import log, log10, sqrt

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

_HEAP_WEIGHTS = np.logspace(-3, log10(0.5), 12)
_HEAP_SPREADS = np.logspace(log10(2), 3, 16)
"""Candidates for the share of halvings that are not as the smooth curve says, and by how much."""


def with_heaps(
    smooth: Sequence[Float64Array],
    counts: Sequence[Float64Array],
    sizes: Float64Array,
    noise: float,
) -> list[Float64Array]:
    """Return for each bin of a column what share of it each sub-bin has.

    Args:
        smooth: the same by the smooth curve, summing to one in each bin.
        counts: noised, of each bin's sub-bins.
        sizes: counts of the bins, (num_bins,).
        noise: deviation of the noise of ``counts``.
    """
    bins = [_Bin(s, c / noise) for s, c in zip(smooth, counts, strict=True)]
    threshold = heap_threshold(np.concatenate([each.excess for each in bins]))
    return [each.shares(n, threshold) for each, n in zip(bins, sizes / noise, strict=True)]


class _Bin:
    """One bin, halved again and again: unbalanced Haar coefficients beside a smooth curve.

    Counts are in units of their noise's deviation.
    """

    def __init__(self, smooth: Float64Array, counts: Float64Array) -> None:
        """Take the smooth curve's shares of sub-bins, summing to one, and noised counts."""
        self._smooth = smooth
        self._halvings: list[tuple[int, int, int, float, float]] = []
        excess = []
        todo = [(0, len(counts))]
        while todo:
            low, high = todo.pop()
            if high - low == 1:
                continue
            middle = (low + high) // 2
            both = smooth[low:high].sum()
            left = (middle - low) / (high - low)
            if both > 0:
                left = min(float(smooth[low:middle].sum() / both), 1.0)
            more = (1 - left) * counts[low:middle].sum() - left * counts[middle:high].sum()
            deviation = sqrt((1 - left) ** 2 * (middle - low) + left**2 * (high - middle))
            self._halvings.append((low, middle, high, left, more))
            excess.append(more / deviation)
            todo += [(low, middle), (middle, high)]
        self.excess = np.array(excess)
        """By how many deviations of noise the first half has more than by the curve."""

    def shares(self, size: float, threshold: float) -> Float64Array:
        """Return shares of sub-bins: the curve's but where an excess is above the threshold.

        Args:
            size: the bin's count.
            threshold: of the excess.
        """
        if not size > 0:
            return self._smooth
        result = np.full(len(self._smooth), size)  # of the part that a sub-bin is in so far
        for (low, middle, high, left, more), excess in zip(
            self._halvings, self.excess, strict=True
        ):
            whole = result[low]
            part = whole * left
            if abs(excess) > threshold:
                part = min(max(part + more, 0.0), whole)
            result[low:middle], result[middle:high] = part, whole - part
        return result / size


def heap_threshold(excess: Float64Array) -> float:
    """Return from where on an excess is more likely a heap than noise.

    Empirical Bayes (Johnstone & Silverman 2004): z ~ (1 - w) N(0, 1) + w N(0, s²), with w and s
    those of most likelihood. Where nothing heaps it comes to about 4.5, where much does to 2.

    Args:
        excess: z, of all halvings of a column, in deviations of noise.
    """
    weight, spread = np.meshgrid(_HEAP_WEIGHTS, _HEAP_SPREADS, indexing="ij")
    squared = excess**2 / 2
    ratio = np.exp(squared.clip(max=300) * (1 - 1 / spread[..., None] ** 2)) / spread[..., None]
    likelihood = np.log1p(weight[..., None] * (ratio - 1)).sum(-1)
    best = np.unravel_index(likelihood.argmax(), likelihood.shape)
    w, s = float(weight[best]), float(spread[best])
    return sqrt(2 * log((1 - w) / w * s) / (1 - 1 / s**2))
