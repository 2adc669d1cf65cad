"""A chain's sums: phantoms follow from votes, then a map of these, then steps along gradients."""

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
from pratique_privacy.post_processing.transport_fit import TransportFit

Float64Array = NDArray[np.float64]


class ChainFit:
    """Sums in their order: those of votes first, then moments."""

    def __init__(self, study: StudySpec, generator: ImageChainGenerator) -> None:
        self._study, self._generator = study, generator
        self._fit: EvolutionFit | MomentsFit | TransportFit | DpAdam = _fit_of(study, generator)
        self._done = 0

    def update(self, total: Float64Array, noise: float, *, site_share: float = 1.0) -> None:
        """Take an opened sum of what the round is for."""
        self._fit.update(total, noise, site_share=site_share)
        self._done += 1
        generator, study = self._generator, self._study
        if self._done == generator.vote_rounds:
            self._fit.finish()
            self._fit = TransportFit(study, generator.transport)
        elif self._done == generator.vote_rounds + 1 and generator.network is not None:
            adapt(study, generator.network, generator.transport)
            rounds = study.training.rounds - self._done
            self._fit = DpAdam(study, generator.network, rounds=rounds)

    def finish(self) -> None:
        """Put final weights into the last part."""
        self._fit.finish()


def _fit_of(study: StudySpec, generator: ImageChainGenerator) -> EvolutionFit | MomentsFit:
    match generator.first:
        case SimMomentsGenerator() as first:
            return MomentsFit(study, first)
        case SimPeGenerator() as first:
            return EvolutionFit(study, first, rounds=generator.vote_rounds)
    raise TypeError("a chain begins with votes")
