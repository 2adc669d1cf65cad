"""What a site adds up for a generator: one clipped vector a patient.

Shapes: B patients, K rows a patient (padded), D columns, P = ``Generator.sum_size``.
"""

from collections.abc import Callable
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pratique_common.generators.base import CountedGenerator, Generator, GradientGenerator
from pratique_privacy.dp_sgd import clipped_sum
from pratique_privacy.pair_sums import clipped_pair_sum
from pratique_privacy.sampling import poisson_sample

Float64Array = NDArray[np.float64]

PatientSum = Callable[[Tensor, Tensor], Float64Array]
"""From codes (B, K, D) and row weights (B, K) to the exact sum (P,): a patient moves it by at most
``max_grad_norm``. It is as sensitive as the records."""


_BLOCK_PATIENTS = 1_024


def patient_sum(
    generator: Generator, max_grad_norm: float, *, planned_batch: float = 1.0
) -> PatientSum:
    """Return the sum that a generator asks of a site, at the state it then has.

    Args:
        generator: trained by gradients or fitted to counts.
        max_grad_norm: bound of a patient's vector.
        planned_batch: patients in a batch by public constants: how finely gradients are cut up.
    """
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
    return _GradientSum(generator, max_grad_norm, num_blocks=ceil(planned_batch / _BLOCK_PATIENTS))


class _GradientSum:
    """Clipped gradients, added up in 32-bit floats within blocks and in 64-bit floats over them.

    A patient's block is a coin of its own: with one patient more, all others can stay where they
    are, so the rounding of one block is all that changes beside the patient's own part. Memory and
    rounding depend on the size of a block and not on that of the batch.
    """

    def __init__(
        self, generator: GradientGenerator, max_grad_norm: float, *, num_blocks: int
    ) -> None:
        self._generator, self._num_blocks = generator, num_blocks
        self._max_grad_norm = max_grad_norm

    def __call__(self, codes_BKD: Tensor, weight_BK: Tensor) -> Float64Array:
        block_B = torch.from_numpy(
            np.random.default_rng().integers(self._num_blocks, size=len(codes_BKD))
        )
        total_P = np.zeros(self._generator.sum_size)
        for number in range(self._num_blocks):
            here = block_B == number
            total_P += clipped_sum(
                self._generator, self._max_grad_norm, codes_BKD[here], weight_BK[here]
            )
        return total_P


def sampled_sum(
    add_up: PatientSum, codes_PKD: Tensor, weight_PK: Tensor, *, sample_rate: float
) -> Float64Array:
    """Poisson-sample patients with secret coins and return their sum."""
    chosen = torch.from_numpy(np.flatnonzero(poisson_sample(len(codes_PKD), sample_rate)))
    return add_up(codes_PKD[chosen], weight_PK[chosen])
