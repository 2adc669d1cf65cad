"""A linear layer with a fixed pattern of connections, whose parameter holds only what is connected.

Nothing else is trained, clipped, noised or sent. ``pratique_privacy.dp_sgd`` knows how to take the
exact norm of a patient's gradient of it.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


class MaskedLinear(nn.Module):
    """y = x Wᵀ + b with W zero where ``mask`` (out, in) is false.

    Outputs next to each other with equal connections are a run, and inputs likewise: the mask is
    ``run_mask`` with its lines repeated ``output_runs`` and its columns ``input_runs`` times.
    """

    def __init__(self, mask: Tensor, *, scale: float, rng: torch.Generator) -> None:
        super().__init__()
        rows, cols = mask.nonzero(as_tuple=True)
        # Plain attributes, not buffers: they follow from the study and are never sent.
        self.mask = mask.float()
        self._flat_index = rows * mask.shape[1] + cols
        runs, outputs = torch.unique_consecutive(self.mask, dim=0, return_counts=True)
        self.run_mask, inputs = torch.unique_consecutive(runs, dim=1, return_counts=True)
        self.output_runs, self.input_runs = outputs.tolist(), inputs.tolist()
        # One-hot inputs: about one in every column is active, so scale by connected inputs.
        fan_in = mask.sum(1).clamp(min=1).sqrt()[rows]
        self.weight = nn.Parameter(torch.randn(len(rows), generator=rng) * scale / fan_in)
        self.bias = nn.Parameter(torch.zeros(mask.shape[0]))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Take the pattern along where the weights are moved (``Module.to``)."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.mask, self.run_mask = fn(self.mask), fn(self.run_mask)
        self._flat_index = fn(self._flat_index)
        return self

    def dense_weight(self) -> Tensor:
        """Return W as (out, in)."""
        flat = torch.zeros(self.mask.numel(), dtype=self.weight.dtype, device=self.weight.device)
        return flat.index_put((self._flat_index,), self.weight).view_as(self.mask)

    def gather(self, dense: Tensor) -> Tensor:
        """Return the connected entries of (..., out, in) as (..., entries)."""
        return dense.flatten(-2)[..., self._flat_index]

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for (..., in)."""
        return nn.functional.linear(x, self.dense_weight(), self.bias)
