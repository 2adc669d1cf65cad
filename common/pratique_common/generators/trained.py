"""What generators that DP-SGD trains share: their state is their module's trainable weights."""

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pratique_common.generators.vectors import from_vector, to_vector

Network = TypeVar("Network", bound=nn.Module)


class TrainedGenerator(Generic[Network]):
    """State and length of a generator whose sums are gradients of ``module``."""

    module: Network

    @property
    def block_rows(self) -> int | None:
        """Rows are small."""
        return None

    def state(self) -> NDArray[np.float32]:
        """Return the weights."""
        return to_vector(self.module)

    def load_state(self, vector: NDArray[np.float32]) -> None:
        """Take over weights.

        Raises:
            ValueError: they are not such weights.
        """
        from_vector(self.module, vector)

    @property
    def sum_size(self) -> int:
        """Length of a sum of gradients."""
        return to_vector(self.module).size
