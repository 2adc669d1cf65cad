"""From evidence to a decision: the same function for the coordinator and for every site."""

from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pratique_common.errors import FederationError
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
from pratique_privacy.canary_evidence import canary_rules, conclude_site_canaries
from pratique_privacy.control import PlantedLeak, planted_leak
from pratique_privacy.evidence import Evidence, SiteBudget
from pratique_privacy.fixed_point import FixedPoint
from pratique_privacy.gate import GateDecision, Rule, decide, integrity
from pratique_privacy.secure_sum.opening import without_self_masks
from pratique_privacy.secure_sum.shares import commit
from pratique_privacy.site_utility import SiteUtility, site_utility

_CLAIM_TOLERANCE = 1e-9

Float64Array = NDArray[np.float64]


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
        integrity("every site told of earlier audits", trained <= set(evidence.earlier)),
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
