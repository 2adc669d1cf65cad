"""From evidence to a decision: the same function for the coordinator and for every site."""

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from pydantic import BaseModel, ConfigDict

from pratique_common.study import StudySpec
from pratique_common.utility import SCORE_CELLS, UTILITY_CELLS
from pratique_privacy.audits.base import IntArray
from pratique_privacy.audits.family import NUM_CELLS, ConcludedAudit, conclude, unflatten
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.gate import GateDecision, Rule, decide, integrity
from pratique_privacy.intervals import AucEstimate, histogram_auc

MAX_AUDITS_PER_RUN = 2
"""A model may be audited twice: more would turn the audit into an oracle."""

_UTILITY_CONFIDENCE = 0.975


class Drop(BaseModel):
    """When and with which code a site dropped out; round 0 is before the first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: int
    code: str


class SiteBudget(BaseModel):
    """ε that a patient of a site has spent at most over all studies, and may spend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spent: float
    budget: float


class Evidence(BaseModel):
    """Everything that a decision rests on: public, and part of the report.

    Attributes:
        asked: sites of the study.
        trained: sites whose sums were opened in training.
        commitments: site → commitment to its hold-out, given before training.
        ledger_heads: site → head of its ledger after the audit was charged.
        counts: site → its noised audit answer.
        budgets: site → its patients' budget after the audit.
        dropped: site → when and why it dropped out.
        vetoes: site → code with which it did not sign.
        attempt: which candidate of the run this is, from 1.
        rounds_done: DP-SGD steps whose sums were opened.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: tuple[str, ...]
    trained: tuple[str, ...]
    commitments: dict[str, str]
    ledger_heads: dict[str, str]
    counts: dict[str, tuple[int, ...]]
    budgets: dict[str, SiteBudget]
    dropped: dict[str, Drop]
    vetoes: dict[str, str]
    attempt: int
    rounds_done: int


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """The audits' results (None if a group is too small for any), utility and the decision."""

    audits: dict[str, ConcludedAudit] | None
    utility: AucEstimate | None
    gate: GateDecision


def answer_size(study: StudySpec) -> int:
    """Return how many counts a site's audit answer has."""
    return 2 * NUM_CELLS + (UTILITY_CELLS if study.data.target else 0)


def conclude_evidence(study: StudySpec, evidence: Evidence) -> Conclusion:
    """Return what follows from evidence: a pure function, and missing evidence refuses."""
    rules = _integrity_rules(study, evidence)
    answers = [np.array(answer, np.int64) for answer in evidence.counts.values()]
    if not answers or any(answer.shape != (answer_size(study),) for answer in answers):
        return Conclusion(audits={}, utility=None, gate=decide(rules, {}))
    total = np.sum(answers, axis=0)
    plan, noise_shares = PrivacyPlan(study), sqrt(len(answers))
    try:
        audits = conclude(
            unflatten(total[:NUM_CELLS]),
            unflatten(total[NUM_CELLS : 2 * NUM_CELLS]),
            study.release,
            sigma_members=noise_shares * plan.audit_members_sigma,
            sigma_holdout=noise_shares * plan.audit_holdout_sigma,
            member_share=1 - study.audit.holdout_fraction,
            attempt=evidence.attempt,
        )
    except ValueError:
        return Conclusion(audits=None, utility=None, gate=decide(rules, None))
    utility = _utility(study, total[2 * NUM_CELLS :], noise_shares * plan.utility_sigma)
    return Conclusion(audits=audits, utility=utility, gate=decide(rules, audits))


def _integrity_rules(study: StudySpec, evidence: Evidence) -> list[Rule]:
    trained = set(evidence.trained)
    claimed = PrivacyPlan(study).training_spent()
    audited = {site for site, counts in evidence.counts.items() if counts}
    return [
        integrity("quorum: enough sites trained", len(trained) >= study.release.min_sites),
        integrity("only sites of the study took part", trained <= set(evidence.asked)),
        integrity(
            "all rounds of the study were done", evidence.rounds_done == study.training.rounds
        ),
        integrity(
            "claimed epsilon within the study", claimed.epsilon <= study.privacy.target_epsilon
        ),
        integrity("hold-outs were committed before training", trained <= set(evidence.commitments)),
        integrity("every site that trained audited", trained == audited),
        integrity("every ledger was charged", trained <= set(evidence.ledger_heads)),
        integrity("no more audits than allowed", 1 <= evidence.attempt <= MAX_AUDITS_PER_RUN),
        integrity("no site refused to sign", not evidence.vetoes),
    ]


def _utility(study: StudySpec, counts: IntArray, sigma: float) -> AucEstimate | None:
    """Return the AUC of a model trained on the candidate over hold-out patients of all sites."""
    if not study.data.target:
        return None
    without, with_outcome = counts[:SCORE_CELLS], counts[SCORE_CELLS:]
    if min(without.sum(), with_outcome.sum()) < 1:
        return None
    estimate = histogram_auc(
        with_outcome.astype(float),
        without.astype(float),
        sigma_members=sigma,
        sigma_controls=sigma,
        confidence=_UTILITY_CONFIDENCE,
    )
    # Noise may carry an estimate out of the range that an AUC can have.
    return replace(
        estimate,
        auc=min(1.0, max(0.0, estimate.auc)),
        lower=max(0.0, estimate.lower),
        upper=min(1.0, estimate.upper),
    )
