"""From a module to the vector that travels, and back."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained, in the order of the vector."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def to_vector(module: nn.Module) -> NDArray[np.float32]:
    """Return the trainable parameters as one float32 vector."""
    return nn.utils.parameters_to_vector(trainable(module)).detach().numpy().copy()


MAX_WEIGHT = 100.0
"""No honest run comes near it. Larger weights, which a coordinator may send, would let float32
overflow or cancel in a patient's gradient, where no clipping could bound it."""


def from_vector(module: nn.Module, vector: NDArray[np.float32]) -> None:
    """Set the trainable parameters from a vector.

    Raises:
        ValueError: the vector's length does not fit, or a weight is beyond ``MAX_WEIGHT``.
    """
    expected = sum(parameter.numel() for parameter in trainable(module))
    # Written so that NaN is refused.
    if vector.shape != (expected,) or not (np.abs(vector) <= MAX_WEIGHT).all():
        raise ValueError(f"expected {expected} finite weights within ±{MAX_WEIGHT:g}")
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.from_numpy(vector.copy()), trainable(module))
