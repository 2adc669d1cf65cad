"""The report as data: ``report.json``, from which the page is made and nothing else.

It holds no number that is derived from a record without noise.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.columns import CategoricalColumn
from pratique_common.encoding import TableEncoder
from pratique_common.study import StudySpec
from pratique_common.tables import Table, row_weights
from pratique_common.utility import OutcomeModel, labels
from pratique_common.utility_cells import groups_of, risk_cuts
from pratique_privacy.claims import claims
from pratique_privacy.conclusion import Conclusion
from pratique_privacy.evidence import Evidence
from pratique_privacy.post_processing.derivation import sites_derive
from pratique_server.report.sample_grid import sample_grid

Float64Array = NDArray[np.float64]


def build_report(
    study: StudySpec,
    evidence: Evidence,
    conclusion: Conclusion,
    *,
    run: str,
    candidate: Table | None,
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
        **of_study(study),
        "run": run,
        "created": created,
        "candidate_sha256": candidate_sha256,
        **claims(study, evidence, conclusion),
        "evidence": evidence.model_dump(mode="json"),
        "samples": None if candidate is None else sample_grid(study.data, candidate.columns),
        "synthetic": {} if candidate is None else _synthetic(study, candidate),
        "marginals": {} if candidate is None else _marginals(study, candidate, marginals),
        "reproduction": {"seed": seed, "versions": versions},
    }


def of_study(study: StudySpec) -> dict[str, Any]:
    """Return the sections that repeat the study: whoever has it can check them."""
    return {
        "study": study.name,
        "study_digest": study.digest,
        "disclosure": study.disclosure.model_dump(mode="json"),
        "data": _data(study),
        "release": study.release.model_dump(mode="json"),
        "sites_derive": sites_derive(study),
    }


def _data(study: StudySpec) -> dict[str, Any]:
    schema = study.data
    return {
        "columns": len(schema.columns),
        "patient_id": schema.patient_id is not None,
        "max_rows_per_patient": schema.max_rows_per_patient,
        "image": None if schema.image is None else schema.image.model_dump(mode="json"),
        "visits": None if schema.visits is None else schema.visits.model_dump(mode="json"),
        "target": schema.target,
        "positive": schema.positive_level,
        "quasi_identifiers": list(schema.quasi_identifiers),
        "sensitive": list(schema.sensitive),
        "rules": [rule.model_dump() for rule in schema.rules],
        "expected_patients": study.privacy.expected_patients,
        "holdout_fraction": study.audit.holdout_fraction,
    }


def _synthetic(study: StudySpec, candidate: Table) -> dict[str, Any]:
    """Return what the candidate says itself where hold-out patients are counted: no secret.

    ``predicted`` is the range of risks of each cell, highest first, by the model trained on it.
    """
    schema = study.data.audited
    if schema.target is None:
        return {}
    weight = row_weights(candidate)
    model = OutcomeModel.fit(schema, candidate.columns)
    ends = [0.0, *risk_cuts(model, candidate.columns).tolist(), 1.0]
    positive, known = labels(schema, candidate.columns)
    groups = []
    for name, level in groups_of(schema):
        inside = known & (candidate.columns[name] == level)
        size = weight[inside].sum()
        groups.append(
            {
                "share": float(size / max(weight[known].sum(), 1e-300)),
                "outcome": float(weight[inside & positive].sum() / size) if size > 0 else None,
            }
        )
    return {
        "predicted": [list(cell) for cell in pairwise(ends)][::-1],
        "groups": groups,
    }


def _marginals(study: StudySpec, candidate: Table, marginals: list[Float64Array]) -> dict[str, Any]:
    """Return one-way marginals of the candidate beside the noised histograms of training.

    The table is fitted to them, so their agreement is near-tautological: the page says so.
    """
    weight = row_weights(candidate)  # as histograms of patients are weighted
    codes = TableEncoder(study.data).encode(candidate.columns)
    result = {}
    for d, column in enumerate(study.data.columns):
        if isinstance(column, CategoricalColumn):
            labels = list(column.levels)
        else:
            edges = map(column.spell, column.bin_edges())
            dash = "-" if column.kind == "number" else " "
            labels = [f"{low}{dash}{high}" for low, high in pairwise(edges)]
        if column.can_be_missing:
            labels.append("missing")
        shares = np.bincount(codes[:, d], weight, minlength=column.num_levels) / weight.sum()
        result[column.name] = {
            "labels": labels,
            "noised": [round(float(p), 6) for p in marginals[d]],
            "synthetic": [round(float(p), 6) for p in shares],
        }
    return result
