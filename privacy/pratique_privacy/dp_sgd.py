"""The clipped gradient sum of a batch of patients: the sensitive half of a DP-SGD step.

Shapes: B patients, K rows a patient, D columns, P trainable parameters.

Opacus' ghost clipping takes each patient's exact gradient norm without its gradient (Li et al.
2022, arXiv 2110.05679). A patient's rows lie along a sequence dimension, so that the unit that is
clipped is the patient: adding or removing a patient with all its rows moves the sum by at most
``max_grad_norm``.
"""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.grad_sample.utils import register_grad_sampler, register_norm_sampler
from torch import Tensor, nn

from pratique_common.generators.base import GradientGenerator
from pratique_common.generators.masked import MaskedLinear
from pratique_common.generators.vectors import trainable

_ROUND_UP = 1e-6


@register_norm_sampler(MaskedLinear)  # type: ignore[untyped-decorator]
def _masked_linear_norms(
    layer: MaskedLinear, activations: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """Gradient norms of a masked linear layer, never below the true ones, (B,) each.

    ‖Σ_k g_k a_kᵀ ∘ M‖² = Σ_kl (g_k ∘ g_l)ᵀ M (a_k ∘ a_l); for one row a patient this is ⟨g² M, a²⟩.
    Rows that cancel leave a small difference of large terms, and the gradient itself is summed in
    float32: so terms are added in float64 and the norm is rounded up by far more than the error
    of that sum. Without cancellation this is a factor of 1 + 5e-7.
    """
    a_BKI, g_BKO = _with_rows(activations[0]).double(), _with_rows(backprops).double()
    num_rows, mask = g_BKO.shape[1], layer.mask.double()
    squared_B = torch.zeros(len(g_BKO), dtype=torch.float64)
    largest_B = torch.zeros_like(squared_B)
    for k in range(num_rows):
        for other in range(k, num_rows):
            g_BO = g_BKO[:, k] * g_BKO[:, other]
            a_BI = a_BKI[:, k] * a_BKI[:, other]
            term_B = ((g_BO @ mask) * a_BI).sum(1)
            squared_B += term_B if k == other else 2 * term_B
            largest_B += term_B if k == other else 0
    norms = {layer.weight: (squared_B.clamp(min=0) + _ROUND_UP * largest_B).sqrt()}
    if layer.bias.requires_grad:
        bias_B = g_BKO.sum(1).square().sum(1) + _ROUND_UP * g_BKO.square().sum((1, 2))
        norms[layer.bias] = bias_B.sqrt()
    return {parameter: norm_B.float() for parameter, norm_B in norms.items()}


@register_grad_sampler(MaskedLinear)  # type: ignore[untyped-decorator]
def _masked_linear_gradients(
    layer: MaskedLinear, activations: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """Per-patient gradients themselves: what the norms above must agree with."""
    a_BKI, g_BKO = _with_rows(activations[0]), _with_rows(backprops)
    dense_BOI = torch.einsum("bko,bki->boi", g_BKO, a_BKI)
    gradients = {layer.weight: layer.gather(dense_BOI)}
    if layer.bias.requires_grad:
        gradients[layer.bias] = g_BKO.sum(1)
    return gradients


def _with_rows(x: Tensor) -> Tensor:
    return x if x.dim() == 3 else x.unsqueeze(1)


HookedModule = Any
"""``GradSampleModuleFastGradientClipping``: Opacus has no type hints."""


def clipping_module(generator: GradientGenerator, max_grad_norm: float) -> HookedModule:
    """Hook Opacus' ghost clipping into a generator's module, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GradSampleModuleFastGradientClipping(
            generator.module, loss_reduction="sum", max_grad_norm=max_grad_norm, strict=True
        )


def clipped_sum(
    hooked: HookedModule, generator: GradientGenerator, codes_BKD: Tensor, weight_BK: Tensor
) -> NDArray[np.float64]:
    """Return Σ over patients of their clipped gradients, shape (P,), without noise.

    The result is as sensitive as the records: add noise before anything else is done with it.

    Args:
        hooked: ``clipping_module`` of the generator.
        generator: whose loss is differentiated at its present weights.
        codes_BKD: the batch; it may be empty, which gives zeros.
        weight_BK: weights of a patient's rows.
    """
    parameters = trainable(generator.module)
    if len(codes_BKD) == 0:
        return np.zeros(sum(parameter.numel() for parameter in parameters))
    # The input is one-hot data and needs no gradient: torch says so at every step.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    hooked.train()
    hooked.zero_grad(set_to_none=True)
    loss_B = generator.loss(codes_BKD, weight_BK)
    torch.autograd.backward(loss_B.sum(), retain_graph=True)
    usable_B = torch.isfinite(hooked.get_norm_sample()) & torch.isfinite(loss_B.detach())
    if not usable_B.all():
        # A gradient that is no number cannot be clipped, and 0 times it is no number either: the
        # patient is left out. Other patients' gradients do not depend on it.
        hooked.zero_grad(set_to_none=True)
        return clipped_sum(hooked, generator, codes_BKD[usable_B], weight_BK[usable_B])
    scale_B = hooked.get_clipping_coef().detach()
    hooked.zero_grad(set_to_none=True)
    hooked.disable_hooks()
    try:
        torch.autograd.backward((scale_B * loss_B).sum())
    finally:
        hooked.enable_hooks()
    flat = torch.cat([_gradient(parameter).flatten() for parameter in parameters])
    hooked.zero_grad(set_to_none=True)
    return flat.double().numpy()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
