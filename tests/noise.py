"""Noise of any deviation for tests, drawn by the product's own sampler."""

import numpy as np
from numpy.typing import NDArray

from pratique_privacy.discrete_gaussian import discrete_gaussian

_LOG2_SIGMA = 16


def noise(size: int, sigma: float) -> NDArray[np.float64]:
    """Return draws of deviation ``sigma`` on a grid of σ / 2¹⁶, as counts carry them."""
    return discrete_gaussian(size, _LOG2_SIGMA) * (sigma / 2.0**_LOG2_SIGMA)
