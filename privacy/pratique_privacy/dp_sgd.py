"""The clipped gradient sum of a batch of patients: the sensitive half of a DP-SGD step.

Shapes: B patients, K rows a patient, O outputs and I inputs of a layer, P trainable parameters.

One pass forward and one backward give every layer's inputs a and the gradients g of its outputs.
Of these follow a patient's exact gradient norm (ghost norm: Li et al. 2022, arXiv 2110.05679) and
then the clipped sum (book-keeping: Bu et al. 2023, arXiv 2210.00038): nothing is differentiated
twice. A patient's rows lie along a dimension of their own, so that the unit that is clipped is the
patient: adding or removing one with all its rows moves the sum by at most ``max_grad_norm``.

Layers that are not linear go through Opacus' gradient samplers, a gradient a patient; those of
image networks through samplers of their own (``image_gradients``). Such gradients are computed
once, so that the norm is of what is added up, to the last bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

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

_UNIT = 2.0**-24  # largest relative error of one float32 operation
_BLOCK_PRODUCTS = 4_000_000
_ROWS_AT_ONCE = 256  # of a sum: their copies in float64 stay in the cache

Blocks = tuple[list[int], Tensor, list[int]]
"""Lengths of runs of outputs, which of them are connected with which runs of inputs, lengths."""


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
    explicit = [
        None if _is_linear(each.layer) else _gradients(each.layer, [each.inputs], backprop)
        for each, backprop in zip(passes, backprops, strict=True)
    ]
    squared_B = torch.zeros(len(codes_BKD), dtype=torch.float64, device=codes_BKD.device)
    for each, backprop, gradients in zip(passes, backprops, explicit, strict=True):
        for norm_B in _norms(each.layer, [each.inputs], backprop, gradients).values():
            squared_B += norm_B.square()
    norm_B = squared_B.sqrt()
    # A gradient that is no number cannot be clipped, and 0 times it is no number either: the
    # patient is left out. Other patients' gradients do not depend on it.
    usable_B = torch.isfinite(norm_B) & torch.isfinite(loss_B.detach())
    scale_B = (max_grad_norm / (norm_B + 1e-6)).clamp(max=1.0)
    keep = slice(None) if usable_B.all() else usable_B
    total: dict[nn.Parameter, Tensor] = {}
    for each, backprop, gradients in zip(passes, backprops, explicit, strict=True):
        kept = {p: g[keep] for p, g in gradients.items()} if gradients else None
        total |= _scaled_sum(each.layer, each.inputs[keep], backprop[keep], scale_B[keep], kept)
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


# --- norms -------------------------------------------------------------------------------------


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, MaskedLinear) or type(layer) is nn.Linear


def _norms(
    layer: nn.Module, inputs: list[Tensor], backprops: Tensor, gradients: Gradients | None = None
) -> dict[nn.Parameter, Tensor]:
    """Return float64 gradient norms of a layer's parameters, never below the true ones, (B,).

    ``gradients`` are those of a layer that is not linear, if they are there already.
    """
    if isinstance(layer, MaskedLinear):
        blocks = (layer.output_runs, layer.run_mask, layer.input_runs)
        return _linear_norms(layer, inputs[0], backprops, blocks)
    if type(layer) is nn.Linear:
        connected = torch.ones(1, 1, device=inputs[0].device)
        whole = ([layer.out_features], connected, [layer.in_features])
        return _linear_norms(layer, inputs[0], backprops, whole)
    return {
        parameter: (1 + _UNIT * each[0].numel()) * each.flatten(1).double().norm(dim=1)
        for parameter, each in (gradients or _gradients(layer, inputs, backprops)).items()
    }


def _linear_norms(
    layer: nn.Linear | MaskedLinear, a: Tensor, g: Tensor, blocks: Blocks
) -> dict[nn.Parameter, Tensor]:
    """Gradient norms of a linear layer whose mask M connects runs p of outputs and q of inputs.

    ‖Σ_k g_k a_kᵀ ∘ M‖² = Σ_kl t_kl with t_kl = Σ_pq M_pq ⟨g_k, g_l⟩_p ⟨a_k, a_l⟩_q. Rows that
    cancel leave a small difference of large terms: what float32 products of n terms may be off by,
    n u √(t_kk t_ll) with the unit u (Higham 2002, "Accuracy and stability", 3.1), is added.
    """
    a_BKI, g_BKO = _with_rows(a), _with_rows(g)
    num_terms = a_BKI.shape[2] + g_BKO.shape[2]
    block = max(1, _BLOCK_PRODUCTS // (sum(blocks[1].shape) * a_BKI.shape[1] ** 2))
    squares = [
        _rounded_up(_terms(a_bKI, g_bKO, blocks), num_terms)
        for a_bKI, g_bKO in zip(torch.split(a_BKI, block), torch.split(g_BKO, block), strict=True)
    ]
    norms = {cast(nn.Parameter, layer.weight): torch.cat(squares).sqrt()}
    if layer.bias is not None and layer.bias.requires_grad:
        products_BKK = (g_BKO @ g_BKO.mT).double()
        norms[layer.bias] = _rounded_up(products_BKK, g_BKO.shape[2]).sqrt()
    return norms


def _terms(a_BKI: Tensor, g_BKO: Tensor, blocks: Blocks) -> Tensor:
    """Return t_kl as float64, (B, K, K): products of float32, added up over runs in float64."""
    output_runs, mask_PQ, input_runs = blocks
    if a_BKI.shape[1] == 1:  # squares, without a small product a run
        g_BP, a_BQ = _squares(g_BKO[:, 0], output_runs), _squares(a_BKI[:, 0], input_runs)
        return ((g_BP @ mask_PQ.double()) * a_BQ).sum(1)[:, None, None]
    g_PX, a_QX = _products(g_BKO, output_runs), _products(a_BKI, input_runs)
    return ((mask_PQ.double().T @ g_PX) * a_QX).sum(0).view(len(a_BKI), *2 * a_BKI.shape[1:2])


def _squares(x_BI: Tensor, runs: list[int]) -> Tensor:
    lengths = torch.tensor(runs, device=x_BI.device)
    of_run = torch.eye(len(runs)).to(x_BI).repeat_interleave(lengths, dim=0)
    return (x_BI.square() @ of_run).double()


def _products(x_BKI: Tensor, runs: list[int]) -> Tensor:
    """Return the inner products of a patient's rows within runs of I, (runs, B · K · K)."""
    parts = torch.split(x_BKI, runs, dim=2)
    return torch.stack([(part @ part.mT).flatten() for part in parts]).double()


def _rounded_up(t_BKK: Tensor, num_terms: int) -> Tensor:
    """Return Σ_kl t_kl, (B,), and what float32 may have taken from it at most."""
    largest_B = t_BKK.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt().sum(1).square()
    return t_BKK.sum((1, 2)).clamp(min=0) + _UNIT * (num_terms + t_BKK.shape[1]) * largest_B


# --- sums --------------------------------------------------------------------------------------


def _scaled_sum(
    layer: nn.Module, a: Tensor, g: Tensor, scale_B: Tensor, gradients: Gradients | None = None
) -> dict[nn.Parameter, Tensor]:
    """Return Σ_b scale_b · gradient_b of a layer's parameters; ``gradients`` as for norms."""
    if not _is_linear(layer):
        each_B = gradients or _gradients(layer, [a], g)
        return {
            p: torch.einsum("b,b...->...", scale_B, each.double()) for p, each in each_B.items()
        }
    # In float64: the sum is then exact, and one patient more changes it by its own part alone.
    a_BKI, g_BKO = _with_rows(a), _with_rows(g)
    dense_OI = torch.zeros(g_BKO.shape[2], a_BKI.shape[2], dtype=torch.float64, device=a.device)
    bias_O = torch.zeros_like(dense_OI[:, 0])
    few = max(1, _ROWS_AT_ONCE // a_BKI.shape[1])
    parts = (torch.split(each, few) for each in (a_BKI, g_BKO, scale_B))
    for a_bKI, g_bKO, scale_b in zip(*parts, strict=True):
        g_NO = (g_bKO.double() * scale_b[:, None, None]).flatten(0, 1)
        dense_OI.addmm_(g_NO.T, a_bKI.double().flatten(0, 1))
        bias_O += g_NO.sum(0)
    of_weight = layer.gather(dense_OI) if isinstance(layer, MaskedLinear) else dense_OI
    sums = {cast(nn.Parameter, layer.weight): of_weight}
    if layer.bias is not None and layer.bias.requires_grad:
        sums[cast(nn.Parameter, layer.bias)] = bias_O
    return sums


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


register_norm_sampler(MaskedLinear)(_norms)


def _with_rows(x: Tensor) -> Tensor:
    return x if x.dim() == 3 else x.unsqueeze(1)
