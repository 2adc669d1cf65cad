"""A Gaussian copula: one correlation a pair of columns, and the columns' own histograms.

As in DPCopula (Li, Xiong & Jiang, EDBT 2014): ranks of levels, in the study's order, are cuts of
correlated normal variables. It cannot express how levels without an order go together.

Shapes: D columns, C = all levels of all columns.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pratique_common.column_base import Spec
from pratique_common.generators.base import Marginals
from pratique_common.generators.counted import FittedGenerator
from pratique_common.schema import TableSchema

_SMALLEST_UNIFORM = 2.0**-54  # a draw may be zero, whose quantile is no number


class Settings(Spec):
    """Settings of ``[generator] name = "copula"``: there are none."""


class CopulaGenerator(FittedGenerator):
    """See the module's text; implements ``CountedGenerator``."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        del settings, seed  # nothing is random before sampling
        super().__init__(schema)
        levels = self.layout.num_levels
        self.module = nn.ParameterDict(
            {
                "factor": nn.Parameter(torch.eye(len(levels))),
                "marginals": nn.Parameter(torch.zeros(self.layout.num_cells)),
            }
        )
        self.set_marginals([np.full(n, 1 / n) for n in levels])

    def set_marginals(self, marginals: Marginals) -> None:
        """Start from independent columns."""
        super().set_marginals(marginals)
        self.set_correlations(np.eye(len(self.layout.num_levels)))
        with torch.no_grad():
            self.module["marginals"].copy_(torch.from_numpy(self._centre_C))

    def set_correlations(self, matrix_DD: NDArray[np.float64]) -> None:
        """Take the correlations of the normal variables: positive definite, 1 on the diagonal."""
        with torch.no_grad():
            self.module["factor"].copy_(torch.from_numpy(np.linalg.cholesky(matrix_DD)))

    @torch.no_grad()
    def sample(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return codes of shape (num_rows, D)."""
        levels = self.layout.num_levels
        # In 64 bits and from uniform draws, which are the same on every processor.
        uniform_ND = torch.rand(num_rows, len(levels), generator=rng, dtype=torch.float64)
        normal_ND = torch.special.ndtri(uniform_ND.clamp(min=_SMALLEST_UNIFORM))
        uniform_ND = torch.special.ndtr(normal_ND @ self.module["factor"].double().T)
        codes = []
        for d, part in enumerate(torch.split(self.module["marginals"].double(), list(levels))):
            cuts = part.cumsum(0) / part.sum()
            codes.append(torch.searchsorted(cuts[:-1].contiguous(), uniform_ND[:, d].contiguous()))
        return torch.stack(codes, dim=1)
