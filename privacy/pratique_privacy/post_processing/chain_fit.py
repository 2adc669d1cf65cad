"""A chain's sums: of votes follow phantoms, a network learns these, then steps along gradients."""

import numpy as np
from numpy.typing import NDArray

from pratique_common.generators.image_chain import ImageChainGenerator
from pratique_common.generators.sim_moments import SimMomentsGenerator
from pratique_common.generators.sim_pe import SimPeGenerator
from pratique_common.study import StudySpec
from pratique_privacy.post_processing.dp_adam import DpAdam
from pratique_privacy.post_processing.evolution import EvolutionFit
from pratique_privacy.post_processing.moments_fit import MomentsFit
from pratique_privacy.post_processing.pretraining import adapt

Float64Array = NDArray[np.float64]


class ChainFit:
    """Sums in their order: those of votes first."""

    def __init__(self, study: StudySpec, generator: ImageChainGenerator) -> None:
        self._study, self._generator = study, generator
        self._votes = _fit_of(study, generator)
        self._steps: DpAdam | None = None
        self._done = 0

    def update(self, total: Float64Array, noise: float, *, site_share: float = 1.0) -> None:
        """Take an opened sum of votes, or of clipped gradients, (parameters,)."""
        if self._steps is not None:
            self._steps.update(total, noise, site_share=site_share)
            return
        self._votes.update(total, noise, site_share=site_share)
        self._done += 1
        if self._done == self._generator.vote_rounds:
            network = self._generator.network
            adapt(self._study, network, self._generator.first)
            rounds = self._study.training.rounds - self._done
            self._steps = DpAdam(self._study, network, rounds=rounds)

    def finish(self) -> None:
        """Put the averaged weights into the network; votes alone leave it as it is."""
        if self._steps is not None:
            self._steps.finish()


def _fit_of(study: StudySpec, generator: ImageChainGenerator) -> EvolutionFit | MomentsFit:
    match generator.first:
        case SimMomentsGenerator() as first:
            return MomentsFit(study, first)
        case SimPeGenerator() as first:
            return EvolutionFit(study, first, rounds=generator.vote_rounds)
    raise TypeError("a chain begins with votes")
