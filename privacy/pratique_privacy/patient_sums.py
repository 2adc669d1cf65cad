"""What a site adds up for a generator: one clipped vector a patient.

Shapes: B patients, K rows a patient (padded), D columns, P = ``Generator.sum_size``.
"""

import copy
import os
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pratique_common.generators.base import (
    CountedGenerator,
    Generator,
    GradientGenerator,
    LossOfPatients,
    VotedGenerator,
)
from pratique_common.generators.masked import MaskedLinear
from pratique_common.generators.pairs import PairLayout
from pratique_privacy.pair_sums import clipped_pair_sum
from pratique_privacy.patient_votes import Ballot, vote_sum
from pratique_privacy.sampling import poisson_sample

Float64Array = NDArray[np.float64]

PatientSum = Callable[[Tensor, Tensor], Float64Array]
"""From codes (B, K, D) and row weights (B, K) to the exact sum (P,): a patient moves it by at most
``max_grad_norm``. It is as sensitive as the records."""


CPU = torch.device("cpu")

_PRECISION = {"cpu": torch.float32, "cuda": torch.float64}
"""What losses are differentiated in. A GPU promises no last bit, so there these are made too small
for any weights to make much of. Signs before a ReLU are another matter: see ``place_matters``."""

_BLOCK_PATIENTS = 1_024
_TAIL_PATIENTS = 64  # more than any kernel of a matrix product treats as the rest of its rows


def patient_sum(
    generator: Generator, max_grad_norm: float, *, device: torch.device = CPU
) -> PatientSum:
    """Return the sum that a generator asks of a site, at the state it then has.

    Args:
        generator: of any kind; on the processor.
        max_grad_norm: bound of a patient's vector.
        device: where gradients are computed; all else is counted on the processor.
    """
    if isinstance(generator, CountedGenerator):
        counted = generator
        return counted_sum(counted.layout, lambda: counted.centre, max_grad_norm)
    if isinstance(generator, VotedGenerator):
        return voted_sum(generator, max_grad_norm)
    if not isinstance(generator, GradientGenerator):
        raise TypeError("a generator is trained by gradients, fitted to counts or voted for")
    return gradient_sum(generator, max_grad_norm, device=device)


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


def voted_sum(ballot: Ballot, max_grad_norm: float) -> PatientSum:
    """Return the sum of patients' votes, each as long as ``max_grad_norm`` at most."""
    return lambda codes_BKD, weight_BK: max_grad_norm * vote_sum(ballot, codes_BKD, weight_BK)


def gradient_sum(
    model: LossOfPatients, max_grad_norm: float, *, device: torch.device = CPU
) -> PatientSum:
    """Return the clipped sum of the gradients of patients' losses at the weights it then has.

    Codes and weights of rows are given on the processor, and so is the sum; for one seed it is the
    same on every device, up to rounding.
    """
    return lambda codes_BKD, weight_BK: _gradient_sum(
        _placed(model, device), max_grad_norm, codes_BKD, weight_BK
    )


def _placed(model: LossOfPatients, device: torch.device) -> LossOfPatients:
    """Return a model that computes on a device; the given one stays on the processor."""
    weight, precision = next(model.module.parameters()), _PRECISION[device.type]
    if (weight.device, weight.dtype) == (device, precision):
        return model
    placed = copy.deepcopy(model)
    placed.module.to(device, precision)
    return placed


@torch.no_grad()
def place_matters(model: LossOfPatients, num_rows: int, device: torch.device) -> bool:
    """Return whether a row's product with a layer differs, in any bit, with its place in a block.

    If it does, weights can be chosen that turn the signs of others' hidden units when one patient
    more shifts their places: such a device cannot bound what a patient adds. No record is needed:
    one random row stands in all places, of blocks as they are in training.

    Args:
        model: whose linear layers are tried; they alone mix numbers before a sign is taken.
        num_rows: of a patient, K.
        device: to be tried.
    """
    rng = torch.Generator().manual_seed(0)
    placed = copy.deepcopy(model)
    placed.module.to(device, _PRECISION[device.type])
    for layer in placed.module.modules():
        if not isinstance(layer, nn.Linear | MaskedLinear):
            continue
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
        width = layer.in_features if isinstance(layer, nn.Linear) else layer.mask.shape[1]
        row_I = torch.randn(width, generator=rng).to(layer.weight)
        block_BKI = row_I.repeat(_BLOCK_PATIENTS + _TAIL_PATIENTS, num_rows, 1)
        found_BKO = layer(block_BKI)[:_BLOCK_PATIENTS]
        if not torch.equal(found_BKO, found_BKO[:1, :1].expand_as(found_BKO)):
            return True
    return False


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
    # Opacus takes a second to import, and generators that count need none of it.
    from pratique_privacy.dp_sgd import clipped_sum

    total_P = np.zeros(model.sum_size)
    like = next(model.module.parameters())
    size = _BLOCK_PATIENTS + _TAIL_PATIENTS
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(os.urandom(8)))
        for start in range(0, len(codes_BKD), _BLOCK_PATIENTS):
            part_BKD = codes_BKD[start : start + _BLOCK_PATIENTS]
            codes = torch.zeros((size, *codes_BKD.shape[1:]), dtype=torch.long)
            weight = torch.zeros((size, codes_BKD.shape[1]), dtype=weight_BK.dtype)
            codes[: len(part_BKD)] = part_BKD
            weight[: len(part_BKD)] = weight_BK[start : start + _BLOCK_PATIENTS]
            total_P += clipped_sum(model, max_grad_norm, codes.to(like.device), weight.to(like))
    return total_P


def sampled_sum(
    add_up: PatientSum, codes_PKD: Tensor, weight_PK: Tensor, *, sample_rate: float
) -> Float64Array:
    """Poisson-sample patients with secret coins and return their sum."""
    if sample_rate == 1:
        return add_up(codes_PKD, weight_PK)
    chosen = torch.from_numpy(np.flatnonzero(poisson_sample(len(codes_PKD), sample_rate)))
    return add_up(codes_PKD[chosen], weight_PK[chosen])
