"""What a report claims, as data: computed by the coordinator and again by every site.

A site signs a report only if these sections are what it computes itself from the same evidence.
"""

from dataclasses import asdict
from math import isclose, isfinite
from typing import Any

from pratique_common.study import StudySpec
from pratique_common.words import attacker_success
from pratique_privacy.accountant import accountant_of, indicative_epsilon, second_opinion
from pratique_privacy.audits import AUDITS
from pratique_privacy.audits.family import FAMILY_ALPHA, ConcludedAudit, bound_confidence
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.canaries import NOISE_CONFIDENCE, ONE_RUN_CONFIDENCE, CanaryResult
from pratique_privacy.conclusion import Conclusion, audit_sigmas
from pratique_privacy.control import PlantedLeak
from pratique_privacy.evidence import Evidence
from pratique_privacy.site_utility import SiteUtility

_RELATIVE_TOLERANCE = 1e-6
"""Machines may differ in the last digits of a float, and in nothing that a reader sees."""


_TRUST_MODELS = {
    "secure_sum": "the coordinator follows the protocol and may be curious, and so may the named "
    "number of sites together with it: they see sums over sites with the whole noise, and no "
    "site's own",
    "local": "every site adds its full noise before anything leaves; the coordinator may be "
    "curious",
}


def claims(study: StudySpec, evidence: Evidence, conclusion: Conclusion) -> dict[str, Any]:
    """Return the sections of a report that a site checks before it signs."""
    return {
        "simulated": study.simulated,
        "decision": conclusion.gate.decision,
        "reasons": [asdict(rule) for rule in conclusion.gate.rules],
        "privacy": privacy_claims(study, evidence),
        "canaries": canaries_as_data(conclusion.canaries),
        "audits": audits_as_data(conclusion.audits, attempt=evidence.attempt),
        "control": control_as_data(conclusion.planted),
        "history": [audit.model_dump(mode="json") for audit in evidence.history()],
        "utility": utility_as_data(conclusion.utility),
        "sites": {
            "asked": list(evidence.asked),
            "answered": sorted(evidence.answers),
            "dropped": {
                site: [drop.model_dump() for drop in drops]
                for site, drops in evidence.dropped.items()
            },
        },
    }


def agree(shown: Any, expected: Any) -> bool:
    """Return whether two JSON-able values are the same up to the last digits of floats."""
    if isinstance(expected, dict):
        return (
            isinstance(shown, dict)
            and shown.keys() == expected.keys()
            and all(agree(shown[key], value) for key, value in expected.items())
        )
    if isinstance(expected, list | tuple):
        return (
            isinstance(shown, list | tuple)
            and len(shown) == len(expected)
            and all(agree(a, b) for a, b in zip(shown, expected, strict=True))
        )
    if isinstance(expected, float) and isinstance(shown, float | int):
        return isclose(shown, expected, rel_tol=_RELATIVE_TOLERANCE, abs_tol=1e-12)
    return bool(shown == expected and isinstance(shown, bool) == isinstance(expected, bool))


def privacy_claims(study: StudySpec, evidence: Evidence) -> dict[str, Any]:
    """Return what the report promises: it follows from the study and the sites' own budgets."""
    plan, privacy = PrivacyPlan(study), study.privacy
    training, total = plan.training_spent(), plan.total_spent()
    events = tuple(plan.training_events())
    by_patient = study.data.patient_id is not None
    secure = privacy.noise == "secure_sum"
    num_sites = max(len(evidence.roster), privacy.least_sites)
    sigmas = audit_sigmas(study, num_sites, max(1, len(evidence.trained)))
    return {
        "epsilon": total.epsilon,
        "delta": total.delta,
        "attacker_success": min(1.0, attacker_success(total.epsilon) + total.delta),
        "target_epsilon": privacy.target_epsilon,
        "target_delta": privacy.target_delta,
        "unit": "patient at one site" if by_patient else "row at one site",
        "neighbouring": "add or remove one patient with all its rows"
        if by_patient
        else "add or remove one row",
        "mechanism": f"discrete Gaussian noise on clipped sums ({_sums(study)}) and on audit counts"
        + (", in shares of which each site adds one" if secure else ""),
        "accountant": accountant_of(events),
        "epsilon_second_accountant": second_opinion(events, delta=privacy.target_delta),
        "epsilon_indicative_prv": indicative_epsilon(events, delta=privacy.target_delta),
        "noise": privacy.noise,
        "tolerated_dropouts": privacy.tolerated_dropouts if secure else 0,
        "colluding_sites": privacy.colluding_sites if secure else 0,
        "trust_model": _TRUST_MODELS[privacy.noise],
        "training": asdict(training),
        "audit_members_epsilon": study.audit.epsilon_members,
        "audit_holdout_epsilon": study.audit.epsilon_holdout,
        "utility_epsilon": study.audit.epsilon_utility if study.data.target else 0.0,
        "audit_delta": study.audit.delta,
        "composition": "parts are added up: training plus audit for members; audit plus utility "
        "for held-out patients; the larger counts",
        "noise_multipliers": {
            "histograms": plan.histogram.noise_multiplier,
            **({"step": plan.step.noise_multiplier} if study.training.rounds else {}),
        },
        "sample_rate": study.training.sample_rate,
        "rounds": study.training.rounds,
        "max_grad_norm": study.training.max_grad_norm,
        "audit_sigma_members": sigmas[0],
        "audit_sigma_holdout": sigmas[1],
        "sites": {
            site: {"spent": budget.spent, "budget": budget.budget}
            for site, budget in evidence.budgets.items()
        },
    }


def _sums(study: StudySpec) -> str:
    if study.training.rounds == 0:
        return "one-way histograms"
    whom = "all patients" if study.training.sample_rate == 1 else "patients sampled by coins"
    return f"one-way histograms, then sums over {whom}"


def canaries_as_data(canaries: CanaryResult | None) -> dict[str, Any]:
    """Return what canaries say of training; ``noise_at_most`` is None where there is no bound."""
    if canaries is None:
        return {}
    bound = canaries.noise_at_most
    return {
        **asdict(canaries),
        "noise_at_most": bound if isfinite(bound) else None,
        "confidence": ONE_RUN_CONFIDENCE,
        "confidence_gaussian": NOISE_CONFIDENCE,
    }


def audits_as_data(audits: dict[str, ConcludedAudit] | None, *, attempt: int = 1) -> dict[str, Any]:
    """Return the conclusions by audit id; ``confidence`` is of each one-sided bound."""
    confidence = bound_confidence(attempt)
    return {
        name: {
            "title": AUDITS[name].title,
            "question": AUDITS[name].question,
            "criterion": AUDITS[name].criterion,
            "statistic": audit.result.statistic,
            "members": audit.result.members,
            "controls": audit.result.controls,
            "interval": list(audit.result.interval),
            "p_value": audit.result.p_value,
            "p_adjusted": audit.p_adjusted,
            "p_opposite": audit.result.p_opposite,
            "passed": audit.p_adjusted >= FAMILY_ALPHA
            and all(bound.passed for bound in audit.result.bounds),
            "bounds": [{**asdict(bound), "passed": bound.passed} for bound in audit.result.bounds],
            "limit_of_detection": audit.result.limit_of_detection,
            "confidence": confidence,
        }
        for name, audit in (audits or {}).items()
    }


def control_as_data(planted: PlantedLeak | None) -> dict[str, Any] | None:
    """Return what became of the planted leak; None if the control could not be run."""
    return None if planted is None else {**asdict(planted), "found": planted.found}


def utility_as_data(utility: SiteUtility | None) -> dict[str, Any]:
    """Return what hold-out patients tell: ``measures`` by id, ``calibration`` and ``groups``."""
    if utility is None:
        return {}
    titles = {
        "tstr_auc": ("Train on synthetic, test on held-out patients (AUC)", utility.auc),
        "prior_auc": ("The same with the public prior, which knows no patient", utility.prior_auc),
    }
    return {
        "measures": {
            name: {
                "title": title,
                "value": auc.auc,
                "interval": [auc.lower, auc.upper],
                "baseline": 0.5,
            }
            for name, (title, auc) in titles.items()
            if auc is not None
        },
        "beats_prior": utility.beats_prior,
        "calibration": [None if share is None else asdict(share) for share in utility.calibration],
        "groups": [
            {
                "column": group.column,
                "level": group.level,
                "share": None if group.share is None else asdict(group.share),
                "outcome": None if group.outcome is None else asdict(group.outcome),
                "tstr_auc": None
                if group.auc is None
                else {"value": group.auc.auc, "lower": group.auc.lower, "upper": group.auc.upper},
            }
            for group in utility.groups
        ],
    }
