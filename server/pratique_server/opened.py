"""A sum over sites as it was opened, and everything that a reader needs to repeat it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.messages import Reply
from pratique_common.parts import SumTranscript
from pratique_privacy.evidence import AuditAnswer


@dataclass(frozen=True, kw_only=True)
class OpenedSum:
    """A sum of the sites of its transcript.

    Attributes:
        total: the sum, (size,).
        transcript: whose it is, with signatures; and seeds of masks where sums are secure.
        words: site → its vector, masked where sums are secure; none of a sum that was read back
            and that nobody has to repeat.
        replies: site → what came with its vector.
    """

    total: NDArray[np.float64]
    transcript: SumTranscript
    words: Mapping[str, NDArray[Any]]
    replies: Mapping[str, Reply] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[str, ...]:
        """Whose vectors are in it, sorted."""
        return tuple(sorted(self.transcript.proofs))

    def vectors(self) -> NDArray[Any]:
        """Return the vectors, (sites, size), in the order of ``sites``."""
        return np.stack([self.words[site] for site in self.sites])

    def answers(self) -> dict[str, AuditAnswer]:
        """Return the vectors as they stand in evidence."""
        return {
            site: AuditAnswer.of(self.words[site], self.transcript.proofs[site])
            for site in self.sites
        }
