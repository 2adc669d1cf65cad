"""What a run leaves behind for its decision: records that stand in the report."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pratique_common.parts import EarlierAudit, SignedMaskKey, SpentEvent, SumProof
from pratique_privacy.canary_evidence import SiteCanaries
from pratique_privacy.fixed_point import FixedPoint
from pratique_privacy.ledger import Entry


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Drop(_Record):
    """That a site was missing: from which round on, with which code, and when it came back.

    Round 0 is that of histograms; what comes after the last one is after training.
    """

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
        earlier: site → audits of this study in its earlier runs.
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
    earlier: dict[str, tuple[EarlierAudit, ...]]
    rounds_done: int

    def history(self) -> tuple[EarlierAudit, ...]:
        """Return all sites' earlier audits together, oldest first, one of each candidate.

        Its day is the first, its decision what sites signed; one that sites signed different
        decisions of has none.
        """
        found: dict[tuple[str, str], list[EarlierAudit]] = {}
        for audits in self.earlier.values():
            for audit in audits:
                found.setdefault((audit.run, audit.candidate_sha256), []).append(audit)
        merged = []
        for same in found.values():
            decisions = {audit.decision for audit in same} - {None}
            decision = decisions.pop() if len(decisions) == 1 else None
            first = min(audit.day for audit in same)
            merged.append(same[0].model_copy(update={"day": first, "decision": decision}))
        return tuple(sorted(merged, key=lambda audit: (audit.day, audit.run)))

    @property
    def attempt(self) -> int:
        """Which audit of this study this is, from 1."""
        return 1 + len(self.history())


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
