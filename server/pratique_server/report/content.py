"""The report as data: ``report.json``, from which the page is made and nothing else.

It holds no number that is derived from a record without noise.
"""

from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pratique_common.encoding import TableEncoder
from pratique_common.schema import NumericColumn
from pratique_common.study import StudySpec
from pratique_common.tables import check_table
from pratique_common.words import attacker_success
from pratique_privacy.audits import AUDITS
from pratique_privacy.audits.family import BOUND_CONFIDENCE, FAMILY_ALPHA, ConcludedAudit
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.conclusion import Conclusion, Evidence
from pratique_privacy.intervals import AucEstimate

Float64Array = NDArray[np.float64]


def build_report(
    study: StudySpec,
    evidence: Evidence,
    conclusion: Conclusion,
    *,
    run: str,
    candidate: pa.Table | None,
    candidate_sha256: str,
    seed: int,
    marginals: list[Float64Array],
    created: str,
    versions: dict[str, str],
) -> dict[str, Any]:
    """Return the whole report as JSON-able data.

    ``candidate`` is None where it is not released: a refusal tells nothing of the table.
    """
    return {
        "report_version": 1,
        "study": study.name,
        "study_digest": study.digest,
        "simulated": study.simulated,
        "run": run,
        "created": created,
        "candidate_sha256": candidate_sha256,
        "decision": conclusion.gate.decision,
        "reasons": [asdict(rule) for rule in conclusion.gate.rules],
        "privacy": _privacy(study, evidence),
        "audits": audits_as_data(conclusion.audits, attempt=evidence.attempt),
        "utility": _utility(conclusion.utility),
        "sites": {
            "asked": list(evidence.asked),
            "answered": sorted(evidence.counts),
            "dropped": {site: drop.model_dump() for site, drop in evidence.dropped.items()},
        },
        "evidence": evidence.model_dump(mode="json"),
        "disclosure": study.disclosure.model_dump(mode="json"),
        "data": _data(study),
        "release": study.release.model_dump(mode="json"),
        "marginals": {} if candidate is None else _marginals(study, candidate, marginals),
        "reproduction": {"seed": seed, "versions": versions},
    }


def _privacy(study: StudySpec, evidence: Evidence) -> dict[str, Any]:
    plan = PrivacyPlan(study)
    training, total = plan.training_spent(), plan.total_spent()
    by_patient = study.data.patient_id is not None
    return {
        "epsilon": total.epsilon,
        "delta": total.delta,
        "attacker_success": min(1.0, attacker_success(total.epsilon) + total.delta),
        "target_epsilon": study.privacy.target_epsilon,
        "target_delta": study.privacy.target_delta,
        "unit": "patient at one site" if by_patient else "row at one site",
        "neighbouring": "add or remove one patient with all its rows"
        if by_patient
        else "add or remove one row",
        "mechanism": "Gaussian noise on clipped sums (one-way histograms, then DP-SGD with Poisson "
        "sampling); discrete Gaussian noise on audit counts",
        "accountant": training.accountant,
        "noise": study.privacy.noise,
        "trust_model": "every site adds its full noise before anything leaves; the coordinator may "
        "be curious",
        "training": asdict(training),
        "audit_members_epsilon": study.audit.epsilon_members,
        "audit_holdout_epsilon": study.audit.epsilon_holdout,
        "utility_epsilon": study.audit.epsilon_utility if study.data.target else 0.0,
        "audit_delta": study.audit.delta,
        "composition": "parts are added up: training plus audit for members; audit plus utility "
        "for held-out patients; the larger counts",
        "noise_multipliers": {
            "histograms": plan.histogram.noise_multiplier,
            "step": plan.step.noise_multiplier,
        },
        "sample_rate": study.training.sample_rate,
        "rounds": study.training.rounds,
        "max_grad_norm": study.training.max_grad_norm,
        "audit_sigma_members": plan.audit_members_sigma,
        "audit_sigma_holdout": plan.audit_holdout_sigma,
        "sites": {site: budget.model_dump() for site, budget in evidence.budgets.items()},
    }


def audits_as_data(audits: dict[str, ConcludedAudit] | None, *, attempt: int = 1) -> dict[str, Any]:
    """Return the conclusions by audit id; ``confidence`` is of each one-sided bound."""
    confidence = 1 - (1 - BOUND_CONFIDENCE) / attempt
    return {
        name: {
            "title": AUDITS[name].title,
            "question": AUDITS[name].question,
            "statistic": audit.result.statistic,
            "members": audit.result.members,
            "controls": audit.result.controls,
            "interval": list(audit.result.interval),
            "p_value": audit.result.p_value,
            "p_adjusted": audit.p_adjusted,
            "passed": audit.p_adjusted >= FAMILY_ALPHA
            and all(bound.passed for bound in audit.result.bounds),
            "bounds": [{**asdict(bound), "passed": bound.passed} for bound in audit.result.bounds],
            "limit_of_detection": audit.result.limit_of_detection,
            "confidence": confidence,
        }
        for name, audit in (audits or {}).items()
    }


def _utility(estimate: AucEstimate | None) -> dict[str, Any]:
    if estimate is None:
        return {}
    return {
        "tstr_auc": {
            "title": "Train on synthetic, test on held-out patients (AUC)",
            "value": estimate.auc,
            "interval": [estimate.lower, estimate.upper],
            "baseline": 0.5,
        }
    }


def _data(study: StudySpec) -> dict[str, Any]:
    schema = study.data
    return {
        "columns": len(schema.columns),
        "patient_id": schema.patient_id is not None,
        "max_rows_per_patient": schema.max_rows_per_patient,
        "target": schema.target,
        "positive": schema.positive_level,
        "quasi_identifiers": list(schema.quasi_identifiers),
        "sensitive": list(schema.sensitive),
        "rules": [rule.model_dump() for rule in schema.rules],
        "expected_patients": study.privacy.expected_patients,
        "holdout_fraction": study.audit.holdout_fraction,
    }


def _marginals(
    study: StudySpec, candidate: pa.Table, marginals: list[Float64Array]
) -> dict[str, Any]:
    """Return one-way marginals of the candidate beside the noised histograms of training.

    Raking fits one to the other, so their agreement is near-tautological: the page says so.
    """
    table = check_table(candidate, study.data, source="candidate", patient_id=None)
    codes = TableEncoder(study.data).encode(table.columns)
    result = {}
    for d, column in enumerate(study.data.columns):
        if isinstance(column, NumericColumn):
            edges = column.bin_edges()
            labels = [f"{low:g}-{high:g}" for low, high in pairwise(edges)]
        else:
            labels = list(column.levels)
        if column.missing:
            labels.append("missing")
        shares = np.bincount(codes[:, d], minlength=column.num_levels) / len(codes)
        result[column.name] = {
            "labels": labels,
            "noised": [round(float(p), 6) for p in marginals[d]],
            "synthetic": [round(float(p), 6) for p in shares],
        }
    return result
