"""The clipped gradient sum of a batch of patients: the sensitive half of a DP-SGD step.

Shapes: B patients, K rows a patient, O outputs and I inputs of a layer, P trainable parameters.

One pass forward and one backward give every layer's inputs a and the gradients g of its outputs.
Of these follow a patient's exact gradient norm (ghost norm: Li et al. 2022, arXiv 2110.05679) and
then the clipped sum (book-keeping: Bu et al. 2023, arXiv 2210.00038): nothing is differentiated
twice. A patient's rows lie along a dimension of their own, so that the unit that is clipped is the
patient: adding or removing one with all its rows moves the sum by at most ``max_grad_norm``.

Linear layers are in ``linear_gradients``. Others go through Opacus' gradient samplers, a gradient a
patient; those of image networks through samplers of their own (``image_gradients``). Such gradients
are computed once, so that the norm is of what is added up, to the last bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.utils import register_grad_sampler, register_norm_sampler
from torch import Tensor, nn

from pratique_common.generators.base import LossOfPatients
from pratique_common.generators.masked import MaskedLinear
from pratique_common.generators.vectors import trainable
from pratique_privacy.image_gradients import Gradients
from pratique_privacy.linear_gradients import (
    RowProducts,
    is_linear,
    num_products,
    patients_at_once,
    scaled_sum,
    squared_norms,
)

_BLOCK_PRODUCTS = 1_000_000  # of patients' rows in each run, held at a time for each layer


@dataclass(frozen=True)
class _Pass:
    """What one layer got in the forward and in the backward pass, (B, ..., I) and (B, ..., O)."""

    layer: nn.Module
    inputs: Tensor
    outputs: Tensor
    version: int
    """Of the outputs: it grows if they are changed in place."""


def clipped_sum(
    model: LossOfPatients, max_grad_norm: float, codes_BKD: Tensor, weight_BK: Tensor
) -> NDArray[np.float64]:
    """Return Σ over patients of their clipped gradients, shape (P,), without noise.

    The result is as sensitive as the records: add noise before anything else is done with it.

    Args:
        model: whose loss is differentiated at its present weights.
        max_grad_norm: bound of a patient's gradient.
        codes_BKD: the batch; it may be empty, which gives zeros.
        weight_BK: weights of a patient's rows, of the module's device and precision.

    Raises:
        TypeError: the module has buffers, or uses a weight so that its norm cannot be taken.
    """
    parameters = trainable(model.module)
    if next(model.module.buffers(), None) is not None:
        raise TypeError("a module with buffers, like batch norm, may mix patients")
    if len(codes_BKD) == 0:
        return np.zeros(sum(parameter.numel() for parameter in parameters))
    with _recorded(model.module) as passes:
        loss_B = model.loss(codes_BKD, weight_BK)
    _check_passes(parameters, passes, len(codes_BKD))
    found = torch.autograd.grad(loss_B.sum(), [each.outputs for each in passes], allow_unused=True)
    backprops = [
        torch.zeros_like(each.outputs) if gradient is None else gradient
        for each, gradient in zip(passes, found, strict=True)
    ]
    explicit = {
        each.layer: _gradients(each.layer, [each.inputs], backprop)
        for each, backprop in zip(passes, backprops, strict=True)
        if not is_linear(each.layer)
    }
    norm_B = _squared_norms(passes, backprops, explicit).sqrt()
    # A gradient that is no number cannot be clipped, and 0 times it is no number either: the
    # patient is left out. Other patients' gradients do not depend on it.
    usable_B = torch.isfinite(norm_B) & torch.isfinite(loss_B.detach())
    scale_B = (max_grad_norm / (norm_B + 1e-6)).clamp(max=1.0)
    keep = slice(None) if usable_B.all() else usable_B
    total: dict[nn.Parameter, Tensor] = {}
    for each, backprop in zip(passes, backprops, strict=True):
        if is_linear(each.layer):
            a_BKI, g_BKO = _with_rows(each.inputs[keep]), _with_rows(backprop[keep])
            total |= scaled_sum(each.layer, a_BKI, g_BKO, scale_B[keep])
        else:
            for p, gradient_B in explicit[each.layer].items():
                total[p] = torch.einsum("b,b...->...", scale_B[keep], gradient_B[keep].double())
    return torch.cat([total[each].flatten() for each in parameters]).detach().cpu().numpy()


@contextmanager
def _recorded(module: nn.Module) -> Iterator[list[_Pass]]:
    """Collect what goes through every layer with weights to train."""
    passes: list[_Pass] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        passes.append(_Pass(layer, inputs[0].detach(), outputs, outputs._version))

    layers = [layer for layer in module.modules() if _own(layer)]
    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def _own(layer: nn.Module) -> list[nn.Parameter]:
    return [p for p in layer.parameters(recurse=False) if p.requires_grad]


def _check_passes(parameters: list[nn.Parameter], passes: list[_Pass], num_patients: int) -> None:
    """Norms add up over layers only where no weight is used twice, nor past its layer.

    They are a patient's only where the first dimension is the patient.
    """
    for each in passes:
        if each.inputs.shape[0] != num_patients or each.outputs.shape[0] != num_patients:
            raise TypeError("the first dimension of what goes through a layer must be the patient")
        if each.outputs._version != each.version:
            raise TypeError("outputs of a layer must not be changed in place")
    used = [id(parameter) for each in passes for parameter in _own(each.layer)]
    if sorted(used) != sorted(map(id, parameters)):
        raise TypeError("a loss must go through every layer with trainable weights exactly once")


def _squared_norms(
    passes: list[_Pass], backprops: list[Tensor], explicit: dict[nn.Module, Gradients]
) -> Tensor:
    """Return float64 squares of the norms of patients' gradients, never below the true ones."""
    squared_B = torch.zeros(len(backprops[0]), dtype=torch.float64, device=backprops[0].device)
    for gradients in explicit.values():
        for each in gradients.values():
            squared_B += _norm(each).square()
    linear = [
        (each.layer, _with_rows(each.inputs), _with_rows(backprop))
        for each, backprop in zip(passes, backprops, strict=True)
        if is_linear(each.layer)
    ]
    sizes = [num_products(layer, a_BKI.shape[1]) for layer, a_BKI, _ in linear]
    few = patients_at_once(max(sizes, default=1), _BLOCK_PRODUCTS)
    for start in range(0, len(squared_B), few):
        products, block = RowProducts(), slice(start, start + few)
        for layer, a_BKI, g_BKO in linear:
            for found_b in squared_norms(layer, a_BKI[block], g_BKO[block], products).values():
                squared_B[block] += found_b
    return squared_B


def _norm(gradient: Tensor) -> Tensor:
    """Return float64 norms of gradients (B, ...), never below the true ones, (B,)."""
    lost = gradient[0].numel() * torch.finfo(gradient.dtype).eps / 2
    norm_B: Tensor = torch.linalg.vector_norm(gradient.flatten(1).double(), dim=1)
    return (1 + lost) * norm_B


def _gradients(
    layer: nn.Module, inputs: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """Return every patient's gradient of a layer's parameters, (B, ...), by Opacus."""
    sampler: Callable[..., Any] | None = GradSampleModule.GRAD_SAMPLERS.get(type(layer))
    if sampler is None:
        raise TypeError(f"Opacus has no gradient sampler for {type(layer).__name__}")
    found = sampler(layer, inputs, backprops)
    return {parameter: found[parameter] for parameter in _own(layer)}


@register_grad_sampler(MaskedLinear)  # type: ignore[untyped-decorator]
def _masked_linear_gradients(
    layer: MaskedLinear, inputs: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """Per-patient gradients themselves: what the norms above must agree with."""
    a_BKI, g_BKO = _with_rows(inputs[0]), _with_rows(backprops)
    dense_BOI = torch.einsum("bko,bki->boi", g_BKO, a_BKI)
    gradients = {layer.weight: layer.gather(dense_BOI)}
    if layer.bias.requires_grad:
        gradients[layer.bias] = g_BKO.sum(1)
    return gradients


@register_norm_sampler(MaskedLinear)  # type: ignore[untyped-decorator]
def _masked_linear_norms(
    layer: MaskedLinear, inputs: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """Return gradient norms, for Opacus' ghost clipping."""
    found = squared_norms(layer, _with_rows(inputs[0]), _with_rows(backprops), RowProducts())
    return {parameter: squared_B.sqrt() for parameter, squared_B in found.items()}


def _with_rows(x: Tensor) -> Tensor:
    return x if x.dim() == 3 else x.unsqueeze(1)
