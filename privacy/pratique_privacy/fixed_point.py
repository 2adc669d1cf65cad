"""Sums as integers modulo 2ᵏ with a share of the noise: the one form in which sums leave a site.

The distributed discrete Gaussian of Kairouz, Liu, Steinke 2021 (arXiv 2102.06387v4). A site rounds
its sum to whole steps, adds a discrete Gaussian share of deviation 2ˢ steps and sends the result
modulo 2ᵏ. ``num_shares`` shares, those of the sites that stay and do not collude, make up the noise
that is claimed; every further share only adds to it.

Rounding. A patient whose clipped contribution has norm C moves the rounded sum of its site by at
most C / step + √size steps, because rounding moves no coordinate by more than one. The step is
chosen so that the noise is ``noise_multiplier`` times exactly that.

Overflow. A site's coordinates are cut at a bound that keeps the sum of all sites and 16 deviations
of all noise inside the ring. Cutting makes no two neighbouring sums differ more. (Noise beyond 16
deviations has probability 10⁻⁵⁶ and would cost accuracy, not privacy: reducing is post-processing.)
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, log2, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_privacy.discrete_gaussian import MAX_LOG2_SIGMA, discrete_gaussian

Float64Array = NDArray[np.float64]
Words = NDArray[Any]
"""Integers modulo 2³² or 2⁶⁴."""

MIN_LOG2_SIGMA = 8
"""From σ = 2⁸ steps a sum of discrete Gaussians is one, but for ``accountant.SUM_DIVERGENCE``."""

MAX_SHARES = 1_000
MAX_SIZE = 10**9

_ROUNDING = 256
"""Rounding adds at most one part in 256 to the sensitivity, and so to the noise."""

_NOISE_REACH = 16
_WORD_BITS = (32, 64)
_INT_RANGE = 2.0**62


@dataclass(frozen=True, kw_only=True)
class Section:
    """Coordinates of a sum that share a noise level.

    Attributes:
        size: how many.
        sensitivity: L2 bound of one patient's contribution.
        noise_multiplier: deviation of the noise that is counted on, over the sensitivity.
        largest: a site's largest coordinate that must not be cut, from public constants.
        reserved: how many of the coordinates, the last ones, are for canaries.
    """

    size: int
    sensitivity: float
    noise_multiplier: float
    largest: float
    reserved: int = 0


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """How a sum is written as integers; the coordinator and all sites derive the same.

    Attributes:
        sections: parts of the vector, one after the other.
        num_sites: how many vectors are added in the ring.
        num_shares: how many noise shares are counted on.

    Raises:
        ValueError: no such form exists; the message says why.
    """

    sections: tuple[Section, ...]
    num_sites: int = 1
    num_shares: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.num_shares <= self.num_sites <= MAX_SHARES:
            raise ValueError("noise shares must be at least one and at most one a site")
        if not 1 <= self.size <= MAX_SIZE:
            raise ValueError(f"a sum has from 1 to {MAX_SIZE} coordinates")
        if self.log2_sigma > MAX_LOG2_SIGMA:
            raise ValueError("too many coordinates for this noise multiplier")
        if not self._fits(_WORD_BITS[-1]):
            raise ValueError("sums are too large for words of 64 bits")

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(section.size for section in self.sections)

    @cached_property
    def log2_sigma(self) -> int:
        """S: a share has deviation 2ˢ steps."""
        needed = max(
            _ROUNDING * section.noise_multiplier * sqrt(section.size / self.num_shares)
            for section in self.sections
        )
        return max(MIN_LOG2_SIGMA, ceil(log2(needed)))

    @cached_property
    def steps(self) -> tuple[float, ...]:
        """Size of a step in each section, in the section's own unit."""
        counted_on = sqrt(self.num_shares) * 2.0**self.log2_sigma
        return tuple(
            section.sensitivity / (counted_on / section.noise_multiplier - sqrt(section.size))
            for section in self.sections
        )

    @cached_property
    def bits(self) -> int:
        """K: the shorter word in which nothing that was planned for is cut."""
        return next(bits for bits in _WORD_BITS if self._fits(bits))

    @property
    def word(self) -> np.dtype[Any]:
        """Data type of the ring: little-endian, so that masks are the same on every machine."""
        return np.dtype("<u4") if self.bits == 32 else np.dtype("<u8")

    def share_sigmas(self) -> tuple[float, ...]:
        """Return the deviation of one share in each section, in the section's own unit."""
        return tuple(step * 2.0**self.log2_sigma for step in self.steps)

    def protect(self, total: Float64Array) -> Words:
        """Return a site's sum with its noise share, modulo 2ᵏ, shape (size,).

        Raises:
            ValueError: the sum has another shape or is not finite.
        """
        if total.shape != (self.size,) or not np.isfinite(total).all():
            raise ValueError("a sum that is no number cannot be protected by noise")
        limit = self._limit_steps(self.bits)
        whole = np.rint(total / self._per_coordinate(self.steps)).clip(-_INT_RANGE, _INT_RANGE)
        cut = whole.astype(np.int64).clip(-limit, limit)  # as integers: floats would round it up
        noised = cut + discrete_gaussian(self.size, self.log2_sigma)
        return noised.astype(self.word)

    def read(self, total: Words) -> Float64Array:
        """Return the sum that ring elements stand for, shape (size,).

        Raises:
            ValueError: they have another shape or type.
        """
        if total.shape != (self.size,) or total.dtype != self.word:
            raise ValueError(f"expected {self.size} words of {self.bits} bits")
        signed = total.view(np.int32 if self.bits == 32 else np.int64).astype(np.float64)
        return np.asarray(signed * self._per_coordinate(self.steps), np.float64)

    def join(self, of_patients: Float64Array, of_canaries: Float64Array) -> Float64Array:
        """Return one vector, (size,), with canaries' values in the reserved coordinates."""
        total = np.empty(self.size)
        total[self._reserved], total[~self._reserved] = of_canaries, of_patients
        return total

    def split(self, total: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Undo ``join``: what is patients', and what lies in the reserved coordinates."""
        return total[~self._reserved], total[self._reserved]

    @cached_property
    def _reserved(self) -> NDArray[np.bool_]:
        parts = [np.arange(s.size) >= s.size - s.reserved for s in self.sections]
        return np.concatenate(parts)

    def _per_coordinate(self, values: tuple[float, ...]) -> Float64Array:
        return np.repeat(values, [section.size for section in self.sections])

    def _fits(self, bits: int) -> bool:
        limit = self._limit_steps(bits)
        return all(
            s.largest <= step * limit for s, step in zip(self.sections, self.steps, strict=True)
        )

    def _limit_steps(self, bits: int) -> int:
        """Return the largest coordinate of a site, in steps, that cannot overflow the sum."""
        return (1 << (bits - 1)) // self.num_sites - (_NOISE_REACH << self.log2_sigma) - 1
