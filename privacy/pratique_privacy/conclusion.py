"""From evidence to a decision: the same function for the coordinator and for every site."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pratique_common.bundle import Decision
from pratique_common.errors import FederationError
from pratique_common.parts import SignedMaskKey, SpentEvent, SumProof
from pratique_common.study import StudySpec
from pratique_common.utility_cells import num_utility_cells
from pratique_privacy.accountant import GaussianEvent, accountants_agree, epsilon_rdp
from pratique_privacy.audits.context import Columns
from pratique_privacy.audits.family import (
    NUM_CELLS,
    ConcludedAudit,
    conclude,
    estimated_size,
    unflatten,
)
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.canaries import CanaryResult
from pratique_privacy.canary_evidence import SiteCanaries, canary_rules, conclude_site_canaries
from pratique_privacy.control import PlantedLeak, planted_leak
from pratique_privacy.fixed_point import FixedPoint
from pratique_privacy.gate import GateDecision, Rule, decide, integrity
from pratique_privacy.ledger import Entry
from pratique_privacy.secure_sum.opening import without_self_masks
from pratique_privacy.secure_sum.shares import commit
from pratique_privacy.site_utility import SiteUtility, site_utility

MAX_AUDITS_PER_RUN = 2
"""A model may be audited twice: more would turn the audit into an oracle."""

_CLAIM_TOLERANCE = 1e-9

Float64Array = NDArray[np.float64]


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


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """The audits' results (None if a group is too small for any), their control (None if it could
    not be run), utility, canaries (None if a site's are missing or false) and the decision."""

    audits: dict[str, ConcludedAudit] | None
    planted: PlantedLeak | None
    utility: SiteUtility | None
    canaries: CanaryResult | None
    gate: GateDecision


def audit_form(study: StudySpec, num_sites: int) -> FixedPoint:
    """Return how an audit's counts are written: members, hold-out, then utility."""
    return PrivacyPlan(study).audit_sum(NUM_CELLS, num_utility_cells(study.data), num_sites)


def audit_sigmas(study: StudySpec, num_sites: int, num_answers: int) -> tuple[float, ...]:
    """Return the deviation of all noise in a count: members, hold-out, and utility if any.

    Args:
        study: the study.
        num_sites: in the roster; without secure sums it does not matter.
        num_answers: whose noise is in the sum.
    """
    shares = audit_form(study, num_sites).share_sigmas()
    return tuple(sigma * sqrt(num_answers) for sigma in shares)


def conclude_evidence(
    study: StudySpec, evidence: Evidence, candidate: Columns | None
) -> Conclusion:
    """Return what follows from evidence: a pure function, and missing evidence refuses.

    Args:
        study: the study.
        evidence: of one run.
        candidate: the rows that the sites audited; None where there are none.
    """
    total = _audit_total(study, evidence)
    rules = _integrity_rules(study, evidence, sum_is_right=total is not None)
    canaries = conclude_site_canaries(
        study,
        evidence.trained,
        evidence.canaries,
        len(evidence.roster),
        rounds_done=evidence.rounds_done,
        dropped=evidence.dropped,
    )
    claimed = PrivacyPlan(study).training_spent().epsilon
    rules += canary_rules(canaries, claimed_epsilon=claimed)
    if total is None:
        return Conclusion(
            audits={},
            planted=None,
            utility=None,
            canaries=canaries,
            gate=decide(rules, {}, None),
        )
    sigmas = audit_sigmas(study, len(evidence.roster), len(evidence.answers))
    members = unflatten(total[:NUM_CELLS])
    holdout = unflatten(total[NUM_CELLS : 2 * NUM_CELLS])
    try:
        audits = conclude(
            members,
            holdout,
            study.release,
            sigma_members=sigmas[0],
            sigma_holdout=sigmas[1],
            member_share=1 - study.audit.holdout_fraction,
            attempt=evidence.attempt,
        )
    except ValueError:
        gate = decide(rules, None, None)
        return Conclusion(audits=None, planted=None, utility=None, canaries=canaries, gate=gate)
    planted = None
    if candidate is not None:
        planted = planted_leak(
            study.data.audited,
            candidate,
            study.release,
            num_members=estimated_size(members),
            num_holdout=estimated_size(holdout),
            sigma_members=sigmas[0],
            sigma_holdout=sigmas[1],
        )
    utility = None
    if study.data.target is not None:
        utility = site_utility(study.data, total[2 * NUM_CELLS :], sigmas[-1])
    gate = decide(rules, audits, planted)
    return Conclusion(audits=audits, planted=planted, utility=utility, canaries=canaries, gate=gate)


def _audit_total(study: StudySpec, evidence: Evidence) -> Float64Array | None:
    """Return the opened sum of all answers, or None if they are not a full sum."""
    answers = evidence.answers
    try:
        if study.privacy.noise == "local":
            form = audit_form(study, 1)
            read = [form.read(answer.vector(form)) for answer in answers.values()]
            return np.asarray(np.sum(read, axis=0), np.float64) if read else None
        seeds = {site: bytes.fromhex(answer.self_seed) for site, answer in answers.items()}
        if any(commit(seeds[site]) != answer.commitment for site, answer in answers.items()):
            return None
        form = audit_form(study, len(evidence.roster))
        if len(answers) < len(evidence.roster) - study.privacy.tolerated_dropouts:
            return None
        words = {site: answer.vector(form) for site, answer in answers.items()}
        return form.read(without_self_masks(words, seeds))
    except (ValueError, FederationError):
        return None


def _integrity_rules(study: StudySpec, evidence: Evidence, *, sum_is_right: bool) -> list[Rule]:
    trained = set(evidence.trained)
    plan = PrivacyPlan(study)
    claimed = plan.training_spent()
    events = plan.training_events()
    return [
        integrity("quorum: enough sites trained", len(trained) >= study.release.min_sites),
        integrity("only sites of the study took part", trained <= set(evidence.asked)),
        integrity(
            "all rounds of the study were done", evidence.rounds_done == study.training.rounds
        ),
        integrity(
            "claimed epsilon within the study", claimed.epsilon <= study.privacy.target_epsilon
        ),
        integrity(
            "two accountants agree on the claim",
            accountants_agree(events, delta=study.privacy.target_delta)
            and all(
                accountants_agree([event], delta=study.audit.delta)
                for event in (plan.audit_members, plan.audit_holdout, plan.utility)
            ),
        ),
        integrity(
            "every ledger's events reproduce the claim",
            trained <= set(evidence.budgets)
            and all(_reproduces(study, budget) for budget in evidence.budgets.values()),
        ),
        integrity("hold-outs were committed before training", trained <= set(evidence.commitments)),
        integrity("every site that trained audited", trained == set(evidence.answers)),
        integrity("the audit's sum is that of the sites' answers", sum_is_right),
        integrity("every ledger was charged", trained <= set(evidence.ledger_heads)),
        integrity("no more audits than allowed", 1 <= evidence.attempt <= MAX_AUDITS_PER_RUN),
        integrity(
            "every earlier candidate is listed",
            [earlier.attempt for earlier in evidence.earlier] == [*range(1, evidence.attempt)],
        ),
        integrity("no site refused to sign", not evidence.vetoes),
    ]


def _reproduces(study: StudySpec, budget: SiteBudget) -> bool:
    """Return whether a ledger's events of this run cost no more than is claimed, a role each.

    A site that missed rounds was charged for fewer.
    """
    plan = PrivacyPlan(study)
    claims: dict[Literal["member", "holdout"], list[GaussianEvent]] = {
        "member": plan.member_events(),
        "holdout": plan.holdout_events(),
    }
    delta = study.privacy.target_delta
    for role, planned in claims.items():
        found = [
            GaussianEvent(
                noise_multiplier=event.noise_multiplier,
                sample_rate=event.sample_rate,
                num_steps=event.num_steps,
            )
            for event in budget.events
            if event.role == role
        ]
        claimed = epsilon_rdp(planned, delta=delta) * (1 + _CLAIM_TOLERANCE)
        if not found or epsilon_rdp(found, delta=delta) > claimed:
            return False
    return True


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
