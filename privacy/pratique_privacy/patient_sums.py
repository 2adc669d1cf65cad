"""What a site adds up for a generator: one clipped vector a patient.

Shapes: B patients, K rows a patient (padded), D columns, P = ``Generator.sum_size``.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pratique_common.generators.base import CountedGenerator, Generator, GradientGenerator
from pratique_privacy.dp_sgd import clipped_sum, clipping_module
from pratique_privacy.pair_sums import clipped_pair_sum
from pratique_privacy.sampling import poisson_sample

Float64Array = NDArray[np.float64]

PatientSum = Callable[[Tensor, Tensor], Float64Array]
"""From codes (B, K, D) and row weights (B, K) to the exact sum (P,): a patient moves it by at most
``max_grad_norm``. It is as sensitive as the records."""


def patient_sum(generator: Generator, max_grad_norm: float) -> PatientSum:
    """Return the sum that a generator asks of a site, at the state it then has."""
    if isinstance(generator, CountedGenerator):
        return lambda codes_BKD, weight_BK: (
            max_grad_norm
            * clipped_pair_sum(
                generator.layout,
                generator.centre,
                codes_BKD.numpy(),
                weight_BK.numpy().astype(np.float64),
            )
        )
    if not isinstance(generator, GradientGenerator):
        raise TypeError("a generator is trained by gradients or fitted to counts")
    gradients: GradientGenerator = generator
    hooked = clipping_module(gradients, max_grad_norm)
    return lambda codes_BKD, weight_BK: clipped_sum(hooked, gradients, codes_BKD, weight_BK)


def sampled_sum(
    add_up: PatientSum, codes_PKD: Tensor, weight_PK: Tensor, *, sample_rate: float
) -> Float64Array:
    """Poisson-sample patients with secret coins and return their sum."""
    chosen = torch.from_numpy(np.flatnonzero(poisson_sample(len(codes_PKD), sample_rate)))
    return add_up(codes_PKD[chosen], weight_PK[chosen])
