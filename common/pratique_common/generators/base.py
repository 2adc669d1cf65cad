"""What every generator is: one module that is trained and sent, a loss a patient, and a sampler.

Shapes: B patients, K rows a patient (padded), N rows, D columns, C = all levels of all columns.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Generator as Rng
from torch import Tensor, nn

Marginals = Sequence[NDArray[np.float64]]


class Generator(Protocol):
    """A generator of encoded rows. Its constructor takes the schema, its settings and a seed."""

    @property
    def module(self) -> nn.Module:
        """The only thing that is trained and sent; same initial weights everywhere for one seed."""

    def set_marginals(self, marginals: Marginals) -> None:
        """Start from one-way marginals (D arrays of probabilities that sum to one)."""

    def loss(self, codes_BKD: Tensor, weight_BK: Tensor) -> Tensor:
        """Return the loss of each patient, shape (B,): DP-SGD clips the gradient of each.

        Args:
            codes_BKD: int64 codes; rows that pad have weight 0 and any valid code.
            weight_BK: weights of a patient's rows, summing to one.
        """

    def sample(self, num_rows: int, rng: Rng) -> Tensor:
        """Return int64 codes of shape (num_rows, D), in the schema's order of columns."""
