"""The audit of a candidate against a site's own patients.

Exact results stay in the site's annex. What leaves is one vector of noised counts, paid for before
it is computed, stored before it is sent, and given again unchanged to the same question.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_client.patients import Group, SitePatients
from pratique_client.site import Site
from pratique_common.canonical import digest, sha256_hex
from pratique_common.errors import FederationError, InvalidFileError
from pratique_common.study import StudySpec
from pratique_common.tables import Table, read_candidate
from pratique_common.utility import OutcomeModel, utility_counts
from pratique_privacy.accountant import GaussianEvent
from pratique_privacy.audits.base import AuditContext, PatientScores
from pratique_privacy.audits.descriptive import Descriptive, dcr_share, nndr
from pratique_privacy.audits.family import conclude, count_cells, flatten
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.conclusion import MAX_AUDITS_PER_RUN
from pratique_privacy.ledger import Charge, Role
from pratique_privacy.noise import discrete_gaussian

Vector = NDArray[np.int64]


class SiteAudit:
    """Audits of the candidates of one run at one site."""

    def __init__(self, site: Site, study: StudySpec, run: str, patients: SitePatients) -> None:
        self._site, self._study, self._run, self._patients = site, study, run, patients
        self._plan = PrivacyPlan(study)

    def answer(self, candidate: bytes, candidate_sha256: str, attempt: int) -> Vector:
        """Return noised counts of members, then of hold-out, then of utility.

        Raises:
            FederationError: not the candidate it claims to be, or too many of them.
            BudgetExceededError: it cannot be paid.
        """
        if sha256_hex(candidate) != candidate_sha256:
            raise FederationError("the candidate's hash is wrong", code="candidate_mismatch")
        question = digest([self._study.digest, self._run, candidate_sha256])
        path = self._site.subfolder("answers") / f"{question}.json"
        if path.is_file():
            return self._stored(path)
        if attempt > MAX_AUDITS_PER_RUN or self.answers_given() >= MAX_AUDITS_PER_RUN:
            raise FederationError("no more audits of this model", code="too_many_audits")
        table = self._read_candidate(candidate)
        try:
            context = AuditContext.build(self._study.data, table.columns)
        except ValueError:
            raise FederationError("rows all alike", code="candidate_invalid") from None
        self._site.ledger.reserve(self.charges())
        exact = self._exact_counts(context, table, candidate_sha256)
        answer = np.concatenate(
            [
                exact["members"]
                + discrete_gaussian(len(exact["members"]), self._plan.audit_members_sigma),
                exact["holdout"]
                + discrete_gaussian(len(exact["holdout"]), self._plan.audit_holdout_sigma),
                exact["utility"] + self._utility_noise(len(exact["utility"])),
            ]
        )
        self._store(path, answer)
        return answer

    def charges(self) -> list[Charge]:
        """Return what one audit costs both roles."""
        charges = [
            self._charge("member", "audit", self._plan.audit_members),
            self._charge("holdout", "audit", self._plan.audit_holdout),
        ]
        if self._study.data.target:
            charges.append(self._charge("holdout", "utility", self._plan.utility))
        return charges

    def stored_answer(self, candidate_sha256: str) -> Vector | None:
        """Return the answer that was given for a candidate, if any."""
        question = digest([self._study.digest, self._run, candidate_sha256])
        path = self._site.subfolder("answers") / f"{question}.json"
        return self._stored(path) if path.is_file() else None

    def _charge(self, role: Role, phase: str, event: GaussianEvent) -> Charge:
        return Charge(study=self._study.digest, run=self._run, role=role, phase=phase, event=event)

    def _utility_noise(self, size: int) -> Vector:
        return discrete_gaussian(size, self._plan.utility_sigma)

    def answers_given(self) -> int:
        """Return how many candidates of this run were answered."""
        folder = self._site.subfolder("answers")
        return sum(
            json.loads(path.read_text())["run"] == self._run for path in folder.glob("*.json")
        )

    def _stored(self, path: Path) -> Vector:
        record = json.loads(path.read_text())
        if record["snapshot"] != self._patients.snapshot:
            # A second answer over changed data would cancel the first one's noise.
            raise FederationError("the data changed since the first answer", code="data_changed")
        return np.array(record["answer"], np.int64)

    def _store(self, path: Path, answer: Vector) -> None:
        record = {
            "run": self._run,
            "snapshot": self._patients.snapshot,
            "answer": answer.tolist(),
        }
        partial = path.with_suffix(".partial")
        with partial.open("w") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)

    def _read_candidate(self, candidate: bytes) -> Table:
        try:
            return read_candidate(candidate, self._study.data, num_rows=self._study.release.rows)
        except InvalidFileError:
            raise FederationError("not a candidate", code="candidate_invalid") from None

    def _exact_counts(
        self, context: AuditContext, candidate: Table, candidate_sha256: str
    ) -> dict[str, Vector]:
        columns, owners, is_member = self._patients.everybody()
        scores = PatientScores.of(context, columns, owners)
        counts = {
            "members": count_cells(context, scores.of_group(is_member)),
            "holdout": count_cells(context, scores.of_group(~is_member)),
        }
        descriptive = [dcr_share(context, columns, owners, is_member), nndr(scores, is_member)]
        self._write_annex(counts, is_member, descriptive, candidate_sha256)
        utility = np.zeros(0, np.int64)
        if self._study.data.target:
            model = OutcomeModel.fit(self._study.data, candidate.columns)
            held_out = _first_rows(self._patients.holdout)
            utility = utility_counts(model, candidate.columns, held_out)
        return {
            "members": flatten(counts["members"]),
            "holdout": flatten(counts["holdout"]),
            "utility": utility,
        }

    def _write_annex(
        self,
        counts: dict[str, dict[str, Vector]],
        is_member: NDArray[np.bool_],
        descriptive: list[Descriptive],
        candidate_sha256: str,
    ) -> None:
        """Write exact results for the hospital's own eyes; this file is never sent."""
        num_members = int(is_member.sum())
        family = conclude(
            counts["members"],
            counts["holdout"],
            self._study.release,
            sigma_members=0.0,
            sigma_holdout=0.0,
            member_share=num_members / len(is_member),
        )
        annex: dict[str, Any] = {
            "for": "the hospital's own eyes; exact results, never sent",
            "study": self._study.digest,
            "run": self._run,
            "candidate_sha256": candidate_sha256,
            "members": num_members,
            "holdout": len(is_member) - num_members,
            "audits": {
                name: {**asdict(audit.result), "p_adjusted": audit.p_adjusted}
                for name, audit in family.items()
            },
            "descriptive": [asdict(result) for result in descriptive],
        }
        name = f"{self._run}-{candidate_sha256[:12]}.json"
        (self._site.subfolder("annex") / name).write_text(json.dumps(annex, indent=2))


def _first_rows(group: Group) -> dict[str, NDArray[Any]]:
    """Return one row a patient: the unit of utility counts is the patient."""
    _, first = np.unique(group.patients.astype(str), return_index=True)
    return {name: values[first] for name, values in group.columns.items()}
