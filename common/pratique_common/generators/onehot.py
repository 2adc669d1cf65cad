"""Rows as concatenated one-hot levels, as neural generators see them.

Shapes: ... any leading dimensions, D columns, C = all levels of all columns.
"""

import numpy as np
import torch
from torch import Tensor

from pratique_common.generators.base import Marginals
from pratique_common.schema import TableSchema

_LEAST_LOG = -9.0


class OneHot:
    """Where each column's levels lie among all cells."""

    def __init__(self, schema: TableSchema) -> None:
        self.levels = [column.num_levels for column in schema.columns]
        self.num_cells = sum(self.levels)
        self._offsets = torch.tensor(np.concatenate([[0], np.cumsum(self.levels)[:-1]]))

    def encode(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return one-hot rows (..., C) of codes (..., D), on the codes' device."""
        zeros = torch.zeros(*codes.shape[:-1], self.num_cells, dtype=dtype, device=codes.device)
        return zeros.scatter_(-1, codes + self._offsets.to(codes.device), 1.0)

    def cross_entropy(self, logits: Tensor, codes: Tensor) -> Tensor:
        """Return the sum over columns of the negative log probability of codes, (...)."""
        found = logits.gather(-1, codes + self._offsets.to(codes.device)).sum(-1)
        parts = self.by_column(logits)
        total: Tensor = torch.stack([part.logsumexp(-1) for part in parts]).sum(0) - found
        return total

    def draw(self, logits: Tensor, rng: torch.Generator) -> Tensor:
        """Return codes (N, D), a column drawn from the softmax of each block of logits (N, C)."""
        parts = self.by_column(logits)
        return torch.stack([draw_level(part.softmax(-1), rng) for part in parts], dim=1)

    def by_column(self, cells: Tensor) -> tuple[Tensor, ...]:
        """Return the parts of (..., C) that belong to each column."""
        return torch.split(cells, self.levels, dim=-1)

    def of_softmax(self, logs: Tensor) -> Tensor:
        """Return probabilities (..., C) of every column's levels."""
        return torch.cat([part.softmax(-1) for part in self.by_column(logs)], dim=-1)

    @staticmethod
    def log_marginals(marginals: Marginals) -> Tensor:
        """Return the logarithms of all columns' marginals, (C,), bounded below."""
        logs = np.log(np.maximum(np.concatenate(marginals), 1e-12))
        return torch.tensor(logs, dtype=torch.float32).clamp(min=_LEAST_LOG)


def draw_level(weight_NL: Tensor, rng: torch.Generator) -> Tensor:
    """Return one level a row, (N,), with odds as its weights: faster than ``multinomial``."""
    cumulative_NL = weight_NL.cumsum(1)
    uniform_N1 = torch.rand(len(weight_NL), 1, generator=rng) * cumulative_NL[:, -1:]
    return (cumulative_NL <= uniform_N1).sum(1).clamp(max=weight_NL.shape[1] - 1)
