"""From votes to phantoms: post-processing of noised sums (Lin et al. 2024, arXiv 2305.15560).

Shapes: M phantoms.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from pratique_common.generators.sim_pe import SimPeGenerator
from pratique_common.phantoms.unit_cube import Phantoms
from pratique_common.study import StudySpec

Float64Array = NDArray[np.float64]


class EvolutionFit:
    """Phantoms with votes stay, and their children take the places of those without."""

    def __init__(self, study: StudySpec, generator: SimPeGenerator, *, rounds: int) -> None:
        self._generator, self._rounds = generator, rounds
        self._learnt = hashlib.sha256(study.digest.encode())
        self._done = 0

    def update(self, total: Float64Array, noise: float, *, site_share: float = 1.0) -> None:
        """Take an opened sum of votes, (M,); ``noise`` and ``site_share`` change no proportion."""
        del noise, site_share
        # Draws follow from all votes so far: nobody chooses them.
        self._learnt.update(total.astype("<f8").tobytes())
        rng = np.random.default_rng(int.from_bytes(self._learnt.digest()[:8]))
        votes_M = np.maximum(total, 0.0)
        self._done += 1
        generator = self._generator
        if self._done == self._rounds:
            generator.keep(generator.scenes, _shares(votes_M, generator.class_of))
            return
        parents = np.concatenate(
            [
                rng.choice(standing, len(standing), p=weight / weight.sum())
                for standing, weight in _by_class(votes_M, generator.class_of)
            ]
        )
        generator.scenes = self._next(generator.scenes[parents], parents, rng)

    def _next(
        self, chosen: Phantoms, parents: NDArray[np.int64], rng: np.random.Generator
    ) -> Phantoms:
        """Return each chosen phantom once, and children of those chosen more often."""
        settings = self._generator.settings
        share = settings.first_share * settings.share_decay ** (self._done - 1)
        children = self._generator.prior.mutated(chosen, rng, share=share)
        again = np.ones(len(parents), bool)
        again[np.unique(parents, return_index=True)[1]] = False
        return type(chosen)(
            chosen.kind,
            np.where(again[:, None], children.unit, chosen.unit),
            np.where(again, children.seed, chosen.seed),
        )

    def finish(self) -> None:
        """Do nothing: the last round's votes decided."""


def _by_class(
    votes_M: Float64Array, class_of: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], Float64Array]]:
    """Return each class's phantoms and their votes; where nobody has any, all have one."""
    found = []
    for number in range(int(class_of.max()) + 1):
        standing = np.flatnonzero(class_of == number)
        votes = votes_M[standing]
        found.append((standing, votes if votes.sum() > 0 else np.ones(len(standing))))
    return found


def _shares(votes_M: Float64Array, class_of: NDArray[np.int64]) -> Float64Array:
    """Return each phantom's share of its class's votes, (M,)."""
    shares = np.zeros(len(votes_M))
    for standing, votes in _by_class(votes_M, class_of):
        shares[standing] = votes / votes.sum()
    return shares
