"""What generators that DP-SGD trains share: their state is their module's weights."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pratique_common.generators.vectors import MAX_WEIGHT, from_vector, to_vector

Network = TypeVar("Network", bound=nn.Module)


class TrainedGenerator(Generic[Network]):
    """State and length of a generator whose sums are gradients of ``module``."""

    module: Network

    @property
    def learning_rate(self) -> float:
        """With which the figures of benchmarks/README.md were made, or .02 where ε is large."""
        return 0.05

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


class PartlyTrainedGenerator(TrainedGenerator[Network], ABC):
    """A generator of which sites also need weights that they do not train."""

    @abstractmethod
    def sent_along(self) -> list[nn.Parameter]:
        """Return these weights."""

    def state(self) -> NDArray[np.float32]:
        """Return the weights that sites train, then the others."""
        others = (p.detach().numpy().ravel() for p in self.sent_along())
        return np.concatenate([super().state(), *others])

    def load_state(self, vector: NDArray[np.float32]) -> None:
        """Take over weights.

        Raises:
            ValueError: they are not such weights.
        """
        others, size = self.sent_along(), self.sum_size
        expected = size + sum(parameter.numel() for parameter in others)
        # Written so that NaN is refused.
        if vector.shape != (expected,) or not (np.abs(vector[size:]) <= MAX_WEIGHT).all():
            raise ValueError(f"expected {expected} finite weights within ±{MAX_WEIGHT:g}")
        super().load_state(vector[:size])
        if others:
            with torch.no_grad():
                nn.utils.vector_to_parameters(torch.from_numpy(vector[size:].copy()), others)
