"""What a site adds up for a generator: one clipped vector a patient.

Shapes: B patients, K rows a patient (padded), D columns, P = ``Generator.sum_size``.
"""

import os
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pratique_common.generators.base import (
    CountedGenerator,
    Generator,
    GradientGenerator,
    LossOfPatients,
)
from pratique_common.generators.pairs import PairLayout
from pratique_privacy.dp_sgd import clipped_sum
from pratique_privacy.pair_sums import clipped_pair_sum
from pratique_privacy.sampling import poisson_sample

Float64Array = NDArray[np.float64]

PatientSum = Callable[[Tensor, Tensor], Float64Array]
"""From codes (B, K, D) and row weights (B, K) to the exact sum (P,): a patient moves it by at most
``max_grad_norm``. It is as sensitive as the records."""


_BLOCK_PATIENTS = 1_024
_TAIL_PATIENTS = 64  # more than any kernel of a matrix product treats as the rest of its rows


def patient_sum(generator: Generator, max_grad_norm: float) -> PatientSum:
    """Return the sum that a generator asks of a site, at the state it then has.

    Args:
        generator: trained by gradients or fitted to counts.
        max_grad_norm: bound of a patient's vector.
    """
    if isinstance(generator, CountedGenerator):
        counted = generator
        return counted_sum(counted.layout, lambda: counted.centre, max_grad_norm)
    if not isinstance(generator, GradientGenerator):
        raise TypeError("a generator is trained by gradients or fitted to counts")
    return gradient_sum(generator, max_grad_norm)


def counted_sum(
    layout: PairLayout, centre: Callable[[], Float64Array], max_grad_norm: float
) -> PatientSum:
    """Return the clipped sum of patients' statistics, centred at what ``centre`` then returns."""
    return lambda codes_BKD, weight_BK: (
        max_grad_norm
        * clipped_pair_sum(
            layout, centre(), codes_BKD.numpy(), weight_BK.numpy().astype(np.float64)
        )
    )


def gradient_sum(model: LossOfPatients, max_grad_norm: float) -> PatientSum:
    """Return the clipped sum of the gradients of patients' losses at the weights it then has."""
    return lambda codes_BKD, weight_BK: _gradient_sum(model, max_grad_norm, codes_BKD, weight_BK)


def _gradient_sum(
    model: LossOfPatients, max_grad_norm: float, codes_BKD: Tensor, weight_BK: Tensor
) -> Float64Array:
    """Return the sum of clipped gradients over blocks of patients.

    Every block is filled up with rows without weight to one public shape, as matrix products treat
    the last rows of a matrix in another way than the others, and matrices of other shapes in other
    ways. So no patient's gradient depends on who else is there, not in its last bits: there are
    weights that make much of these. Memory depends on the size of a block alone.

    A loss may draw, a patient at another place other numbers. With draws that nobody knows or
    repeats this changes no distribution; with a seed that somebody set it would change the sum.
    """
    total_P = np.zeros(model.sum_size)
    size = _BLOCK_PATIENTS + _TAIL_PATIENTS
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(os.urandom(8)))
        for start in range(0, len(codes_BKD), _BLOCK_PATIENTS):
            part_BKD = codes_BKD[start : start + _BLOCK_PATIENTS]
            codes = torch.zeros((size, *codes_BKD.shape[1:]), dtype=torch.long)
            weight = torch.zeros((size, codes_BKD.shape[1]), dtype=weight_BK.dtype)
            codes[: len(part_BKD)] = part_BKD
            weight[: len(part_BKD)] = weight_BK[start : start + _BLOCK_PATIENTS]
            total_P += clipped_sum(model, max_grad_norm, codes, weight)
    return total_P


def sampled_sum(
    add_up: PatientSum, codes_PKD: Tensor, weight_PK: Tensor, *, sample_rate: float
) -> Float64Array:
    """Poisson-sample patients with secret coins and return their sum."""
    if sample_rate == 1:
        return add_up(codes_PKD, weight_PK)
    chosen = torch.from_numpy(np.flatnonzero(poisson_sample(len(codes_PKD), sample_rate)))
    return add_up(codes_PKD[chosen], weight_PK[chosen])
