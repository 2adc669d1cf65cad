"""From noised sums to weights: post-processing, at no further cost of privacy."""

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pratique_common.generators.base import CriticGenerator, Generator, GradientGenerator
from pratique_common.generators.copula import CopulaGenerator
from pratique_common.generators.image_chain import ImageChainGenerator
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.generators.sim_moments import SimMomentsGenerator
from pratique_common.generators.sim_pe import SimPeGenerator
from pratique_common.generators.tree import TreeGenerator
from pratique_common.study import StudySpec
from pratique_privacy.post_processing.adversarial_fit import AdversarialFit
from pratique_privacy.post_processing.chain_fit import ChainFit
from pratique_privacy.post_processing.dp_adam import DpAdam
from pratique_privacy.post_processing.evolution import EvolutionFit
from pratique_privacy.post_processing.moments_fit import MomentsFit
from pratique_privacy.post_processing.pairwise_fit import PairwiseFit
from pratique_privacy.post_processing.simple_fits import CopulaFit, TreeFit

Float64Array = NDArray[np.float64]


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


def strategy_of(
    study: StudySpec, generator: Generator, *, patients: float, errors: Float64Array
) -> Strategy:
    """Return how a generator is trained or fitted once its one-way marginals are set.

    Args:
        study: the study.
        generator: its generator.
        patients: number of members, estimated.
        errors: deviations of the shares of all levels, times patients, (C,).
    """
    match generator:
        case TreeGenerator():
            return TreeFit(study, generator, patients=patients)
        case PairwiseGenerator():
            return PairwiseFit(study, generator, patients=patients, errors=errors)
        case CopulaGenerator():
            return CopulaFit(study, generator, patients=patients)
        case SimPeGenerator():
            return EvolutionFit(study, generator, rounds=study.training.rounds)
        case SimMomentsGenerator():
            return MomentsFit(study, generator)
        case ImageChainGenerator():
            return ChainFit(study, generator)
        case CriticGenerator():
            return AdversarialFit(study, generator)
        case GradientGenerator():
            return DpAdam(study, generator, rounds=study.training.rounds)
    return Finished()


def signal_to_noise(total: Float64Array, sigma: float) -> float:
    """Return the norm of a noised sum over that of noise alone: 1 means nothing but noise.

    A function of what was already released, so it is safe to show, unlike a loss on records.
    """
    return float(np.linalg.norm(total) / (sigma * math.sqrt(total.size)))
