"""What a run leaves behind for its decision: records that stand in the report."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pratique_common.bundle import Decision
from pratique_common.parts import SignedMaskKey, SpentEvent, SumProof
from pratique_privacy.canary_evidence import SiteCanaries
from pratique_privacy.fixed_point import FixedPoint
from pratique_privacy.ledger import Entry

MAX_AUDITS_PER_RUN = 2
"""A model may be audited twice: more would turn the audit into an oracle."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Drop(_Record):
    """That a site was missing: from which round on, with which code, and when it came back."""

    round: int
    code: str
    returned: int | None = None


class SiteBudget(_Record):
    """What a site's ledger says: ε over all studies, the budget, and the events of this run."""

    spent: float
    budget: float
    events: tuple[SpentEvent, ...] = ()


class AuditAnswer(_Record):
    """A site's answer to the candidate: noised counts; with a secure sum they are masked.

    Attributes:
        words: little-endian integers modulo 2ᵏ as hexadecimal digits.
        commitment: of the seed of the self mask.
        signature: the site's, under vector, sum and commitment.
        self_seed: rebuilt by the coordinator; it opens the sum and no summand.
    """

    words: str
    commitment: str = ""
    signature: str = ""
    self_seed: str = ""

    @staticmethod
    def of(words: NDArray[Any], proof: SumProof) -> "AuditAnswer":
        """Return an answer as it stands in the evidence."""
        little_endian = words.astype(words.dtype.newbyteorder("<"))
        return AuditAnswer(
            words=little_endian.tobytes().hex(),
            commitment=proof.commitment,
            signature=proof.signature,
            self_seed=proof.self_seed,
        )

    def vector(self, form: FixedPoint) -> NDArray[Any]:
        """Return the words.

        Raises:
            ValueError: they are not such words.
        """
        words = np.frombuffer(bytes.fromhex(self.words), form.word)
        if words.shape != (form.size,):
            raise ValueError("an answer of another length")
        return words


class EarlierCandidate(_Record):
    """A candidate of this run that was audited before this one, and what was decided of it."""

    attempt: int
    candidate_sha256: str
    decision: Decision


class Evidence(_Record):
    """Everything that a decision rests on: public, and part of the report.

    Attributes:
        asked: sites of the study.
        trained: sites whose sums were opened in training.
        roster: mask keys of the run; empty without secure sums.
        commitments: site → commitment to its hold-out, given before training.
        ledger_heads: site → head of its ledger after the audit was charged.
        lacks: site → columns that it does not record; sites that record all are left out.
        answers: site → its audit answer.
        budgets: site → its ledger's figures after the audit.
        canaries: site → its canaries' values, commitment and coins.
        dropped: site → when and why it was missing.
        vetoes: site → code with which it did not sign.
        attempt: which candidate of the run this is, from 1.
        earlier: every candidate that was audited before it, in order.
        rounds_done: rounds of training whose sums were opened.
    """

    asked: tuple[str, ...]
    trained: tuple[str, ...]
    roster: tuple[SignedMaskKey, ...] = ()
    commitments: dict[str, str]
    ledger_heads: dict[str, str]
    lacks: dict[str, tuple[str, ...]] = {}
    answers: dict[str, AuditAnswer]
    budgets: dict[str, SiteBudget]
    canaries: dict[str, SiteCanaries] = {}
    dropped: dict[str, tuple[Drop, ...]]
    vetoes: dict[str, str]
    attempt: int
    earlier: tuple[EarlierCandidate, ...] = ()
    rounds_done: int


def spent_events(entries: Iterable[Entry]) -> tuple[SpentEvent, ...]:
    """Return what a ledger's entries of one run say happened, like events together."""
    steps: Counter[tuple[Literal["member", "holdout"], float, float]] = Counter()
    for entry in entries:
        kind = (entry.role, entry.event.noise_multiplier, entry.event.sample_rate)
        steps[kind] += entry.event.num_steps
    return tuple(
        SpentEvent(role=role, noise_multiplier=multiplier, sample_rate=rate, num_steps=count)
        for (role, multiplier, rate), count in sorted(steps.items())
    )
