"""What a site adds up for a generator: one clipped vector a patient.

Shapes: B patients, K rows a patient (padded), D columns, P = ``Generator.sum_size``.
"""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pratique_common.generators.base import (
    CountedGenerator,
    Generator,
    GradientGenerator,
    LossOfPatients,
    MeasuredGenerator,
    VotedGenerator,
)
from pratique_common.generators.pairs import PairLayout
from pratique_privacy.pair_sums import clipped_pair_sum
from pratique_privacy.patient_moments import Measured, moment_sum
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
    if isinstance(generator, MeasuredGenerator):
        return measured_sum(generator, max_grad_norm)
    if not isinstance(generator, GradientGenerator):
        raise TypeError("generators take gradients, statistics, votes or moments")
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


def measured_sum(measured: Measured, max_grad_norm: float) -> PatientSum:
    """Return the sum of patients' moments, each as long as ``max_grad_norm`` at most."""
    return lambda codes_BKD, weight_BK: max_grad_norm * moment_sum(measured, codes_BKD, weight_BK)


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


def place_matters(
    model: LossOfPatients, num_rows: int, num_codes: int, device: torch.device
) -> bool:
    """Return whether what a layer computes differs, in any bit, with a place in a block.

    If it does, weights can be chosen that turn the signs of others' hidden units, or make much of
    others' last bits, when one patient more shifts their places: such a device cannot bound what a
    patient adds. No record is needed: one random row stands in all places, of blocks as they are
    in training. Networks of images are deep, and divide by small numbers: there a random patient
    does, and what comes back is looked at too.

    Args:
        model: whose layers with weights are tried; they alone mix numbers.
        num_rows: of a patient, K.
        num_codes: of a row, D.
        device: to be tried.
    """
    rng = torch.Generator().manual_seed(0)
    placed = copy.deepcopy(model)
    placed.module.to(device, _PRECISION[device.type])
    for rows, places in _block_shapes(placed, num_rows):
        for layer, shape in _layer_inputs(placed, (places, rows, num_codes)):
            with torch.no_grad():
                for parameter in layer.parameters(recurse=False):
                    parameter.copy_(torch.randn(parameter.shape, generator=rng))
            like = next(layer.parameters(recurse=False))
            if placed.block_rows is None:
                row_I = torch.randn(shape[2:], generator=rng).to(like)
                with torch.no_grad():
                    found = layer(row_I.expand(shape).contiguous())[:_BLOCK_PATIENTS]
                uneven = not torch.equal(found, found[:1, :1].expand_as(found))
            else:
                patient = torch.randn(shape[1:], generator=rng).to(like)
                both = _there_and_back(layer, patient.expand(shape).contiguous(), rng)
                uneven = any(not torch.equal(x, x[:1].expand_as(x)) for x in both)
            if uneven:
                return True
    return False


def _layer_inputs(
    model: LossOfPatients, shape: tuple[int, int, int]
) -> list[tuple[nn.Module, torch.Size]]:
    """Return the layers with weights that a block goes through, and the shapes of what they get."""
    found: list[tuple[nn.Module, torch.Size]] = []
    layers = [
        m for m in model.module.modules() if next(m.parameters(recurse=False), None) is not None
    ]
    handles = [
        layer.register_forward_hook(lambda layer, inputs, _: found.append((layer, inputs[0].shape)))
        for layer in layers
        if layer is not model.module
    ]
    like = next(model.module.parameters())
    codes = torch.zeros(shape, dtype=torch.long, device=like.device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.loss(codes, torch.ones(shape[:2]).to(like) / shape[1])
    finally:
        for handle in handles:
            handle.remove()
    return found


def _there_and_back(
    layer: nn.Module, inputs: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return what a layer gives, and what comes back for one random gradient of all patients."""
    inputs.requires_grad_(True)
    with _repeatable():
        outputs: Tensor = layer(inputs)
        gradient = torch.randn(outputs.shape[1:], generator=rng).to(inputs)
        (back,) = torch.autograd.grad(outputs, inputs, gradient.expand_as(outputs).contiguous())
    return outputs.detach(), back


def _repeatable() -> AbstractContextManager[None]:
    """On a GPU, take the convolutions that add up in one order."""
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    return cast(AbstractContextManager[None], flags)


def _block_shapes(model: LossOfPatients, num_rows: int) -> list[tuple[int, int]]:
    """Return how many rows a patient of a block has, and how many patients it has places for."""
    if model.block_rows is None:
        return [(num_rows, _BLOCK_PATIENTS + _TAIL_PATIENTS)]
    return [(rows, max(1, model.block_rows // rows)) for rows in range(1, num_rows + 1)]


def _blocks(model: LossOfPatients, weight_BK: Tensor) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Yield patients' indices, and the shape (rows, places) of the block that they fill in part."""
    shapes = _block_shapes(model, weight_BK.shape[1])
    if model.block_rows is None:
        for patients in torch.split(torch.arange(len(weight_BK)), _BLOCK_PATIENTS):
            yield patients, shapes[0]
        return
    number = torch.arange(1, weight_BK.shape[1] + 1)
    rows_B = ((weight_BK != 0) * number).amax(1)
    for rows, places in shapes:
        for patients in torch.split(torch.nonzero(rows_B == rows)[:, 0], places):
            yield patients, (rows, places)


def _gradient_sum(
    model: LossOfPatients, max_grad_norm: float, codes_BKD: Tensor, weight_BK: Tensor
) -> Float64Array:
    """Return the sum of clipped gradients over blocks of patients.

    Every block is filled up with rows without weight to one public shape, as matrix products treat
    the last rows of a matrix in another way than the others, and matrices of other shapes in other
    ways. So no patient's gradient depends on who else is there, not in its last bits: there are
    weights that make much of these. Memory depends on the size of a block alone.

    Images are too large to compute rows that only pad: there a block's patients all have the same
    number of rows, and its shape is one for each such number. It follows from a patient's own rows
    and the study, and still not from who else is there. Layers of image networks compute a patient
    alike at every place of it, the last ones too.

    A loss may draw, a patient at another place other numbers. With draws that nobody knows or
    repeats this changes no distribution; with a seed that somebody set it would change the sum.
    """
    # Opacus takes a second to import, and generators that count need none of it.
    from pratique_privacy.dp_sgd import clipped_sum

    total_P = np.zeros(model.sum_size)
    like = next(model.module.parameters())
    with torch.random.fork_rng(devices=[]), _repeatable():
        torch.manual_seed(int.from_bytes(os.urandom(8)))
        for patients, (rows, places) in _blocks(model, weight_BK):
            codes = torch.zeros((places, rows, codes_BKD.shape[2]), dtype=torch.long)
            weight = torch.zeros((places, rows), dtype=weight_BK.dtype)
            codes[: len(patients)] = codes_BKD[patients, :rows].long()
            weight[: len(patients)] = weight_BK[patients, :rows]
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
