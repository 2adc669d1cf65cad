"""Independent columns: noised histograms and nothing else. What any generator must beat.

Laplace or Gaussian histograms by column are the oldest private synthesis (Barak et al. 2007). All
of the budget goes to the histograms, so no generator has better single columns.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pratique_common.column_base import Spec
from pratique_common.generators.base import Marginals
from pratique_common.schema import TableSchema


class Settings(Spec):
    """Settings of ``[generator] name = "independent"``: there are none."""


class IndependentGenerator:
    """See the module's text; a ``Generator`` that is finished once its marginals are set."""

    sum_size = 0

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        del settings, seed  # nothing is random before sampling
        self._levels = [column.num_levels for column in schema.columns]
        self.module = nn.ParameterDict({"marginals": nn.Parameter(torch.zeros(sum(self._levels)))})
        self.set_marginals([np.full(n, 1 / n) for n in self._levels])

    def set_marginals(self, marginals: Marginals) -> None:
        """Take the marginals: this is all of the fit."""
        with torch.no_grad():
            self.module["marginals"].copy_(torch.from_numpy(np.concatenate(marginals)))

    def state(self) -> NDArray[np.float32]:
        """Return the marginals."""
        return np.asarray(self.module["marginals"].detach().numpy().copy(), np.float32)

    def load_state(self, vector: NDArray[np.float32]) -> None:
        """Take marginals.

        Raises:
            ValueError: they are not probabilities of this schema.
        """
        size = sum(self._levels)
        # Written so that NaN is refused.
        if vector.shape != (size,) or not ((vector >= 0) & (vector <= 1)).all():
            raise ValueError(f"expected {size} probabilities")
        with torch.no_grad():
            self.module["marginals"].copy_(torch.from_numpy(vector))

    @torch.no_grad()
    def sample(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return codes of shape (num_rows, D)."""
        parts = torch.split(self.module["marginals"].double(), self._levels)
        drawn = [draw_levels(part, num_rows, rng) for part in parts]
        return torch.stack(drawn, dim=1)


def draw_levels(weights_L: Tensor, num_rows: int, rng: torch.Generator) -> Tensor:
    """Return levels drawn in proportion to weights in 64 bits, (num_rows,)."""
    cuts = weights_L.cumsum(0)
    uniform_N = torch.rand(num_rows, generator=rng, dtype=torch.float64) * cuts[-1]
    # Levels of no weight have no room between two cuts; the last cut has nothing above it.
    return torch.searchsorted(cuts[:-1].contiguous(), uniform_N, right=True)
