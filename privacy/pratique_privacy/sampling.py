"""Secret coins for Poisson sampling, from the operating system's entropy.

Amplification by sampling holds only while nobody can guess who was in a batch, so no generator with
a seed stands behind these coins.
"""

import os

import numpy as np
from numpy.typing import NDArray


def poisson_sample(num_units: int, sample_rate: float) -> NDArray[np.bool_]:
    """Return for each unit whether it is in the batch: independent coins, possibly none.

    A coin is a uniform number on a grid of 2⁻⁵³, so that a rate is met to within 2⁻⁵³.
    """
    words = np.frombuffer(os.urandom(8 * num_units), np.uint64)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return uniform < sample_rate
