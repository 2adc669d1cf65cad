"""Gradients of linear layers a patient: their norms, and their sum over patients, never themselves.

Shapes: B patients, K rows a patient, I inputs and O outputs of a layer, R runs of either.

A layer gets inputs a (B, K, I), and gradients g (B, K, O) come back; a patient's gradient is
Σ_k g_k a_kᵀ. With the mask M that connects runs p of outputs and q of inputs,

    ‖Σ_k g_k a_kᵀ ∘ M‖² = Σ_kl t_kl,    t_kl = Σ_pq M_pq ⟨g_k, g_l⟩_p ⟨a_k, a_l⟩_q

(ghost norm: Li et al. 2022, arXiv 2110.05679).
"""

from dataclasses import dataclass, field
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn

from pratique_common.generators.masked import MaskedLinear

_ROWS_AT_ONCE = 256  # of a sum: their copies in float64 stay in the cache
_CACHED_NUMBERS = 262_144  # of rows that are multiplied
_ALIKE = 64  # patients: more than any kernel of a matrix product treats as a rest

LinearLayer = nn.Linear | MaskedLinear


def is_linear(layer: nn.Module) -> TypeGuard[LinearLayer]:
    """Return whether the functions here know a layer."""
    return isinstance(layer, MaskedLinear) or type(layer) is nn.Linear


@dataclass
class RowProducts:
    """Inner products of a patient's rows: layers of a network often share what goes through."""

    _known: dict[object, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def of(self, x_BKI: Tensor, runs: list[int]) -> Tensor:
        """Return ⟨x_k, x_l⟩ within each run of I for all k ≤ l, float64, (R, pairs, B)."""
        key = (x_BKI.data_ptr(), x_BKI.shape, x_BKI.stride(), tuple(runs))
        if key not in self._known:
            # With x itself, so that its place in memory is not taken by another.
            self._known[key] = _products(x_BKI, runs), x_BKI
        return self._known[key][0]


def _products(x_BKI: Tensor, runs: list[int]) -> Tensor:
    num_rows = x_BKI.shape[1]
    if len(runs) == 1:
        products = [(x_BKI[:, k : k + 1] * x_BKI[:, k:]).sum(2) for k in range(num_rows)]
        return torch.cat(products, dim=1).T[None].double()
    # A run's sum is a product with ones. This way round it is faster, and the same at every place:
    # as a product with few columns odd patients had other last bits than even ones, and as one
    # product of 2 to 7 rows a patient many had.
    lengths = torch.tensor(runs, device=x_BKI.device)
    ones_RI = torch.eye(len(runs), dtype=x_BKI.dtype, device=x_BKI.device).repeat_interleave(
        lengths, dim=1, output_size=x_BKI.shape[2]
    )
    found = []
    for x_bKI in torch.split(x_BKI, patients_at_once(x_BKI[0].numel(), _CACHED_NUMBERS)):
        x_KbI = x_bKI.transpose(0, 1)
        sums = [ones_RI @ (x_KbI[k] * x_KbI[k:]).flatten(0, 1).T for k in range(num_rows)]
        found.append(torch.cat(sums, dim=1).view(len(runs), -1, len(x_bKI)))
    return torch.cat(found, dim=2).double()


def patients_at_once(size: int, most: int) -> int:
    """Return how many patients of a size may be in a block, a multiple of ``_ALIKE``."""
    return max(1, most // size // _ALIKE) * _ALIKE


def num_products(layer: LinearLayer, num_rows: int) -> int:
    """Return of how many products of rows a patient's norm is made."""
    return num_rows * (num_rows + 1) // 2 * sum(map(len, _runs(layer)))


def _runs(layer: LinearLayer) -> tuple[list[int], list[int]]:
    """Return the lengths of runs of outputs and of inputs."""
    if isinstance(layer, MaskedLinear):
        return layer.output_runs, layer.input_runs
    return [layer.out_features], [layer.in_features]


def squared_norms(
    layer: LinearLayer, a_BKI: Tensor, g_BKO: Tensor, products: RowProducts
) -> dict[nn.Parameter, Tensor]:
    """Return float64 squares of gradient norms of a layer's parameters, never below the true ones.

    Rows that cancel leave a small difference of large terms: what products of n terms may be off by
    in the layer's precision, n u √(t_kk t_ll) with its unit u (Higham 2002, "Accuracy and
    stability", 3.1), is added.
    """
    output_runs, input_runs = _runs(layer)
    of_g, of_a = products.of(g_BKO, output_runs), products.of(a_BKI, input_runs)
    whole = torch.ones(1, 1, device=a_BKI.device)
    mask_PQ = layer.run_mask if isinstance(layer, MaskedLinear) else whole
    shared = (mask_PQ.T.double() @ of_g.flatten(1)).view_as(of_a)
    num_rows, num_terms = a_BKI.shape[1], a_BKI.shape[2] + g_BKO.shape[2]
    lost = (num_terms + num_rows) * torch.finfo(a_BKI.dtype).eps / 2
    found = {cast(nn.Parameter, layer.weight): _rounded_up((shared * of_a).sum(0), num_rows, lost)}
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = _rounded_up(of_g.sum(0), num_rows, lost)
    return found


def _rounded_up(t_XB: Tensor, num_rows: int, lost: float) -> Tensor:
    """Return Σ_kl t_kl over all k and l, of which X are those with k ≤ l, and what may be lost."""
    if num_rows == 1:
        return (1 + lost) * t_XB[0].clamp(min=0)
    own_KB = t_XB[[k * num_rows - k * (k - 1) // 2 for k in range(num_rows)]]  # k = l
    whole_B = (2 * t_XB.sum(0) - own_KB.sum(0)).clamp(min=0)
    return whole_B + lost * own_KB.clamp(min=0).sqrt().sum(0).square()


def scaled_sum(
    layer: LinearLayer, a_BKI: Tensor, g_BKO: Tensor, scale_B: Tensor
) -> dict[nn.Parameter, Tensor]:
    """Return Σ_b scale_b · gradient_b of a layer's parameters.

    In float64: the sum is then exact, and one patient more changes it by its own part alone.
    """
    dense_OI = torch.zeros(g_BKO.shape[2], a_BKI.shape[2], dtype=torch.float64, device=a_BKI.device)
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
        sums[layer.bias] = bias_O
    return sums
