"""DP-SGD's steps at the coordinator: Adam on noised mean gradients, then averaged weights."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pratique_common.generators.base import GradientGenerator
from pratique_common.generators.vectors import from_vector, trainable
from pratique_common.study import StudySpec

Float64Array = NDArray[np.float64]

# Measured with the recipe in design/tabular.md: warm-up of 2 % and a cosine to 5 % of the rate;
# an exponential average of the weights that starts short.
_WARM_UP_SHARE = 0.02
_LAST_RATE_SHARE = 0.05
_EMA_DECAY = 0.98


class DpAdam:
    """Adam on the mean clipped gradient, with the divisor taken from the study.

    Sums are divided by sample_rate times the planned number of members, never by a count.
    """

    def __init__(self, study: StudySpec, generator: GradientGenerator, *, rounds: int) -> None:
        self._module, self._rounds = generator.module, rounds
        self._rate = study.training.learning_rate or generator.learning_rate
        self._divisor = study.training.sample_rate * study.expected_members
        self._optimizer = torch.optim.Adam(trainable(self._module), lr=self._rate)
        self._average = self._vector()
        self._done = 0

    def update(self, total: Float64Array, noise: float, *, site_share: float = 1.0) -> None:
        """Take one step along a noised sum of clipped gradients, shape (parameters,)."""
        del noise, site_share  # Adam adapts to both
        gradient = torch.from_numpy((total / self._divisor).astype(np.float32))
        start = 0
        for parameter in trainable(self._module):
            size = parameter.numel()
            parameter.grad = gradient[start : start + size].view_as(parameter).clone()
            start += size
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * self._rate_share()
        self._optimizer.step()
        self._done += 1
        decay = min(_EMA_DECAY, self._done / (9 + self._done))
        self._average = decay * self._average + (1 - decay) * self._vector()

    def finish(self) -> None:
        """Put the averaged weights into the module."""
        from_vector(self._module, self._average.astype(np.float32))

    def _rate_share(self) -> float:
        warm_up = min(1.0, (self._done + 1) / max(1.0, _WARM_UP_SHARE * self._rounds))
        cosine = 0.5 * (1 + math.cos(math.pi * self._done / self._rounds))
        return warm_up * (cosine * (1 - _LAST_RATE_SHARE) + _LAST_RATE_SHARE)

    def _vector(self) -> Float64Array:
        flat = nn.utils.parameters_to_vector(trainable(self._module))
        return flat.detach().double().numpy().copy()
