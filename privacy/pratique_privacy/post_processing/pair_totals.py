"""Noised sums of pair statistics, taken together over rounds."""

import numpy as np
from numpy.typing import NDArray

from pratique_common.generators.base import CountedGenerator
from pratique_common.study import StudySpec

Float64Array = NDArray[np.float64]


class PairTotals:
    """The mean of rounds, weighted by precision: in units of one full sum of clipped statistics."""

    def __init__(self, study: StudySpec, generator: CountedGenerator) -> None:
        self._study, self._layout = study, generator.layout
        self._weighted_sum, self._precision = np.zeros(generator.sum_size), 0.0
        self._weights_D = generator.layout.weights(generator.centre)
        self._site_share = 0.0  # of the sums that are taken into account

    def add(self, total: Float64Array, noise: float, *, site_share: float) -> None:
        """Take one noised sum of statistics, shape (sum_size,), and its noise's deviation.

        A sum that lacks sites is of other patients than the histograms. It counts only while no
        fuller one is known, scaled up as if sites were of one size: nobody knows their sizes.
        """
        if site_share < self._site_share:
            return
        if site_share > self._site_share:
            self._weighted_sum[:], self._precision, self._site_share = 0.0, 0.0, site_share
        training = self._study.training
        scale = training.max_grad_norm * training.sample_rate * site_share
        self._weighted_sum += (total / scale) * (scale / noise) ** 2
        self._precision += (scale / noise) ** 2

    @property
    def mean(self) -> Float64Array:
        """The sum, (sum_size,)."""
        return self._weighted_sum / self._precision

    @property
    def noise(self) -> float:
        """Deviation of the noise in each of its numbers."""
        return float(self._precision**-0.5)

    def split(self) -> tuple[Float64Array, Float64Array]:
        """Return one-way (C,) and two-way statistics (C, C), without the columns' weights."""
        return self._layout.split(self.mean, self._weights_D)

    def split_noise(self) -> tuple[Float64Array, Float64Array]:
        """Return the deviations of the noise in what ``split`` returns."""
        u_C = self._layout.by_cell(self._weights_D)
        return self.noise / u_C, self.noise / np.outer(u_C, u_C)
