"""Whether canaries' noised values are what the study's noise and sampling make of their coins."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, chi2, norm

from pratique_privacy.accountant import GaussianEvent

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_NEVER = 1e-15


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One kind of sum in which a site's canaries were: the noised values, in units of a canary.

    Attributes:
        values: (canaries,), added over the kind's rounds.
        sigma: planned deviation of all noise in a value.
        event: what such sums cost a patient, as claimed.
        rounds: how many rounds were added.
        sample_rate: of a canary in a round.
    """

    values: Float64Array
    sigma: float
    event: GaussianEvent
    rounds: int = 1
    sample_rate: float = 1.0

    @property
    def expected(self) -> float:
        """Mean of the value of a canary whose coin says yes."""
        return self.rounds * self.sample_rate


@dataclass(frozen=True)
class Group:
    """Values of like canaries, of mean 0 and variance 1 if all is as planned."""

    standard: Float64Array
    kurtosis: float
    """As planned; 3 is a normal distribution's."""

    def p_values(self) -> tuple[float, float]:
        """Return two-sided p-values of the mean and of the mean square."""
        n = self.standard.size
        of_mean = 2 * norm.sf(abs(self.standard.sum()) / sqrt(n))
        # The sum of squares has the mean n and the variance n (κ - 1) of a scaled χ².
        scale = (self.kurtosis - 1) / 2
        squares = float(self.standard @ self.standard) / scale
        of_square = 2 * min(chi2.sf(squares, n / scale), chi2.cdf(squares, n / scale))
        return float(of_mean), float(of_square)


class NoiseTest:
    """What guesses tell of the noise of one site's canaries.

    With z = Σ w u over kinds of sums, w the mean over the variance and z in units of its noise, a
    canary that is not there has z ~ N(0, 1), one that is there N(d, 1); with Poisson sampling the
    number of its rounds varies besides. Any rule of guessing is right in at most as many cases as
    the best one, so the test holds also for cuts that are taken from the values.
    """

    def __init__(self, kinds: Sequence[Measured]) -> None:
        weights = [kind.expected / kind.sigma**2 for kind in kinds]
        self.distance = sqrt(sum((kind.expected / kind.sigma) ** 2 for kind in kinds))
        """d: what separates the canaries that are there from the others, as planned."""
        scale = self.distance if self.distance > 0 else 1.0
        total = sum((w * kind.values for w, kind in zip(weights, kinds, strict=True)), 0.0)
        self.z: Float64Array = np.asarray(total, np.float64) / scale
        self._sampled = [
            (w / scale, kind)
            for w, kind in zip(weights, kinds, strict=True)
            if kind.sample_rate < 1
        ]

    def guesses(self) -> BoolArray:
        """Return for every canary whether it is thought to be there."""
        return np.asarray(self.z > self._cut, bool)

    def clearness(self) -> Float64Array:
        """Return how far from undecided each guess is."""
        return np.abs(self.z - self._cut) * self.distance

    @property
    def _cut(self) -> float:
        return float(self.z.mean())  # half of the coins say yes: half way, whatever the noise

    def chance_right(self, noise_ratio: float = 1.0) -> float:
        """Return how often the best guess is right.

        Args:
            noise_ratio: what was planned of noise over what is there.
        """
        shifts, likely = self._shifts()
        half = self.distance / 2
        there = float(likely @ norm.cdf(noise_ratio * (shifts - half)))
        return (float(norm.cdf(noise_ratio * half)) + there) / 2

    def groups(self, coins: BoolArray) -> tuple["Group", "Group"]:
        """Return the values of canaries that are not there and of those that are, as planned."""
        shifts, likely = self._shifts()
        mean = float(likely @ shifts)
        second, fourth = (float(likely @ (shifts - mean) ** power) for power in (2, 4))
        kurtosis = (3 + 6 * second + fourth) / (1 + second) ** 2
        there = (self.z[coins] - mean) / sqrt(1 + second)
        return Group(self.z[~coins], 3.0), Group(there, kurtosis)

    def _shifts(self) -> tuple[Float64Array, Float64Array]:
        """Return the shifts that a canary which is there may have, and how likely each is."""
        for weight, kind in self._sampled:
            count = np.arange(kind.rounds + 1)
            likely = binom.pmf(count, kind.rounds, kind.sample_rate)
            usual = likely > _NEVER
            shifts = self.distance + weight * (count - kind.expected)
            return shifts[usual], likely[usual]
        return np.array([self.distance]), np.ones(1)
