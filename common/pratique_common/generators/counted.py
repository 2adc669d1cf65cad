"""What generators that are fitted to pair statistics share: their state is the marginals."""

import numpy as np
from numpy.typing import NDArray

from pratique_common.generators.base import Marginals
from pratique_common.generators.pairs import PairLayout
from pratique_common.schema import TableSchema


class FittedGenerator:
    """State and length of a generator whose sums are ``pairs`` statistics."""

    def __init__(self, schema: TableSchema) -> None:
        self.layout = PairLayout(schema)
        self._centre_C = np.zeros(self.layout.num_cells)

    @property
    def centre(self) -> NDArray[np.float64]:
        """One-way marginals at which statistics are centred, (C,)."""
        return self._centre_C

    @property
    def sum_size(self) -> int:
        """Length of a sum of statistics."""
        return self.layout.size

    def set_marginals(self, marginals: Marginals) -> None:
        """Centre statistics at marginals."""
        # Sites get 32-bit floats: whoever computes with marginals uses the same numbers.
        self._centre_C = np.concatenate(marginals).astype(np.float32).astype(np.float64)

    def state(self) -> NDArray[np.float32]:
        """Return what sites need: the marginals."""
        return self._centre_C.astype(np.float32)

    def load_state(self, vector: NDArray[np.float32]) -> None:
        """Take marginals from the coordinator.

        Raises:
            ValueError: they are not probabilities of this schema.
        """
        # Written so that NaN is refused.
        if vector.shape != self._centre_C.shape or not ((vector >= 0) & (vector <= 1)).all():
            raise ValueError(f"expected {self._centre_C.size} probabilities")
        self.set_marginals(self.layout.by_column(vector.astype(np.float64)))
