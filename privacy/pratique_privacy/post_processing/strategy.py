"""From noised sums to weights: post-processing, at no further cost of privacy."""

import math
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pratique_common.generators.base import CriticGenerator, Generator, GradientGenerator
from pratique_common.generators.copula import CopulaGenerator
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.generators.sim_pe import SimPeGenerator
from pratique_common.generators.tree import TreeGenerator
from pratique_common.generators.vectors import from_vector, trainable
from pratique_common.study import StudySpec
from pratique_privacy.post_processing.adversarial_fit import AdversarialFit
from pratique_privacy.post_processing.evolution import EvolutionFit
from pratique_privacy.post_processing.pairwise_fit import PairwiseFit
from pratique_privacy.post_processing.simple_fits import CopulaFit, TreeFit

Float64Array = NDArray[np.float64]

# Measured with the recipe in design/tabular.md: warm-up of 2 % and a cosine to 5 % of the rate;
# an exponential average of the weights that starts short.
_WARM_UP_SHARE = 0.02
_LAST_RATE_SHARE = 0.05
_EMA_DECAY = 0.98


class Strategy(Protocol):
    """What the coordinator does with the sums of training rounds."""

    def update(self, total: Float64Array, noise: float, *, site_share: float = 1.0) -> None:
        """Take an opened sum, shape (sum_size,), and the deviation of the noise in it.

        Args:
            total: of the sites that were there.
            noise: deviation of all noise in a coordinate.
            site_share: of the histograms' sites, how many are in the sum.
        """

    def finish(self) -> None:
        """Put final weights into the generator."""


class Finished:
    """For a generator that its marginals finish."""

    def update(self, total: Float64Array, noise: float, *, site_share: float = 1.0) -> None:
        """Refuse: there are no rounds."""
        del total, noise, site_share
        raise ValueError("this generator takes no sums")

    def finish(self) -> None:
        """Do nothing."""


class DpAdam:
    """Adam on the mean clipped gradient, with the divisor taken from the study.

    Sums are divided by sample_rate times the planned number of members, never by a count.
    """

    def __init__(self, study: StudySpec, generator: GradientGenerator) -> None:
        self._module = generator.module
        self._rounds = study.training.rounds
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


def strategy_of(
    study: StudySpec, generator: Generator, *, patients: float, noise: float
) -> Strategy:
    """Return how a generator is trained or fitted once its one-way marginals are set.

    Args:
        study: the study.
        generator: its generator.
        patients: number of members, estimated.
        noise: deviation of the noise of a level's count.
    """
    match generator:
        case TreeGenerator():
            return TreeFit(study, generator, patients=patients)
        case PairwiseGenerator():
            return PairwiseFit(study, generator, patients=patients, noise=noise)
        case CopulaGenerator():
            return CopulaFit(study, generator, patients=patients)
        case SimPeGenerator():
            return EvolutionFit(study, generator)
        case CriticGenerator():
            return AdversarialFit(study, generator)
        case GradientGenerator():
            return DpAdam(study, generator)
    return Finished()


def signal_to_noise(total: Float64Array, sigma: float) -> float:
    """Return the norm of a noised sum over that of noise alone: 1 means nothing but noise.

    A function of what was already released, so it is safe to show, unlike a loss on records.
    """
    return float(np.linalg.norm(total) / (sigma * math.sqrt(total.size)))
