"""The audit of a candidate against a site's own patients.

Exact results stay in the site's annex. What leaves is one vector of noised counts, as a sum among
the sites' sums: paid for before it is computed, and once for each candidate.
"""

import hashlib
import hmac
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_client.derivation import Proof, require_derived
from pratique_client.patients import Group, SitePatients
from pratique_client.site import Site
from pratique_client.sums import SiteSums, Submission
from pratique_common.canonical import sha256_hex
from pratique_common.durable import write_whole
from pratique_common.errors import FederationError, InvalidFileError
from pratique_common.images.audited import audited_columns, audited_names
from pratique_common.messages import (
    AUDIT_PREFIX,
    AuditInstructions,
    audit_label,
)
from pratique_common.parts import SumProof
from pratique_common.study import StudySpec
from pratique_common.tables import Table, read_candidate
from pratique_common.utility import Columns, OutcomeModel
from pratique_common.utility_cells import utility_counts
from pratique_privacy.accountant import GaussianEvent
from pratique_privacy.audits.context import AuditContext
from pratique_privacy.audits.family import conclude, count_cells, flatten
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.conclusion import audit_form
from pratique_privacy.evidence import AuditAnswer
from pratique_privacy.ledger import Charge, Role
from pratique_privacy.local_audits import run_local_audits
from pratique_privacy.local_audits.base import RealPatients
from pratique_privacy.local_audits.dcr import WHY_NOT_DECISIVE
from pratique_privacy.post_processing.derivation import sites_derive

Vector = NDArray[np.int64]

_UTILITY_PREFIX = "utility "
_AFTER_TRAINING = (AUDIT_PREFIX, _UTILITY_PREFIX)

log = logging.getLogger("pratique.client")


class SiteAudit:
    """Audits of the candidates of one run at one site."""

    def __init__(
        self, site: Site, study: StudySpec, run: str, patients: SitePatients, sums: SiteSums
    ) -> None:
        self._site, self._study, self._run = site, study, run
        self._patients, self._sums = patients, sums
        self._plan = PrivacyPlan(study)

    def answer(
        self,
        candidate: bytes,
        model: bytes,
        proofs: Sequence[Proof],
        instructions: AuditInstructions,
    ) -> Submission:
        """Return counts of members, then of hold-out, then of utility.

        Args:
            candidate: a table, in Parquet.
            model: what it was sampled from.
            proofs: the sums that the model follows from.
            instructions: name the candidate, and who takes part.

        Raises:
            FederationError: not the candidate it claims to be, one that does not follow from the
                run's sums, a second one of this run, or no training in this run here.
            BudgetExceededError: it cannot be paid.
        """
        if all(phase.startswith(_AFTER_TRAINING) for phase in self._phases()):
            raise FederationError("this run was not trained here", code="not_trained")
        candidate_sha256 = instructions.candidate_sha256
        if sha256_hex(candidate) != candidate_sha256:
            raise FederationError("the candidate's hash is wrong", code="candidate_mismatch")
        label = audit_label(candidate_sha256)
        if self._sums.is_answered(label):
            return self._answer_again(candidate_sha256, candidate, model, instructions)
        if self.candidates_answered() - {candidate_sha256}:
            raise FederationError("another candidate was audited", code="too_many_audits")
        table = self._read_candidate(candidate)
        try:
            context = AuditContext.build(self._study.data.audited, table.columns)
        except ValueError:
            raise FederationError("rows all alike", code="candidate_invalid") from None
        if sites_derive(self._study):
            require_derived(self._study, self._sums, proofs, model, candidate)
        seen: list[RealPatients] = []
        submission = self._sums.submit(
            label,
            instructions.participants,
            audit_form(self._study, self._sums.enrolment.num_sites),
            self.charges(label),
            lambda: self._exact_counts(context, table, seen).astype(np.float64),
        )
        self._store(candidate_sha256, candidate, model, submission)
        try:
            if seen:  # another process of this site answered meanwhile, and wrote it
                self._write_annex(seen[0], candidate_sha256)
        except Exception as error:  # noqa: BLE001 - the answer is paid for, and must leave
            log.error("no annex of %s: %s", candidate_sha256[:12], type(error).__name__)
        return submission

    def _answer_again(
        self,
        candidate_sha256: str,
        candidate: bytes,
        model: bytes,
        instructions: AuditInstructions,
    ) -> Submission:
        """Return the answer that was given: the same noise, which costs nothing more."""

        def never() -> NDArray[np.float64]:
            raise FederationError("this candidate was audited", code="repeated_request")

        label = audit_label(candidate_sha256)
        form = audit_form(self._study, self._sums.enrolment.num_sites)
        charges = self.charges(label)
        submission = self._sums.submit(label, instructions.participants, form, charges, never)
        self._store(candidate_sha256, candidate, model, submission)
        return submission

    def _store(
        self, candidate_sha256: str, candidate: bytes, model: bytes, submission: Submission
    ) -> None:
        masked = submission.masked
        proof = SumProof(commitment=masked.commitment, signature=masked.signature)
        answer = AuditAnswer.of(submission.words, proof).model_dump()
        folder = self._sums.folder
        folder.store_answer(candidate_sha256, candidate, sha256_hex(model), answer)

    def charges(self, label: str = AUDIT_PREFIX) -> list[Charge]:
        """Return what one audit costs both roles."""
        charges = [
            self._charge("member", label, self._plan.audit_members),
            self._charge("holdout", label, self._plan.audit_holdout),
        ]
        if self._study.data.target:
            utility = label.replace(AUDIT_PREFIX, _UTILITY_PREFIX, 1)
            charges.append(self._charge("holdout", utility, self._plan.utility))
        return charges

    def stored_answer(self, candidate_sha256: str) -> AuditAnswer | None:
        """Return the answer that was given for a candidate, if any; it knows no seed."""
        stored = self._sums.folder.stored_answer(candidate_sha256)
        return None if stored is None else AuditAnswer.model_validate(stored)

    def candidates_answered(self) -> set[str]:
        """Return the hash of the candidate of this run that was paid for, if any."""
        audits = (phase for phase in self._phases() if phase.startswith(AUDIT_PREFIX))
        return {phase.removeprefix(AUDIT_PREFIX) for phase in audits}

    def stored_candidate(self, candidate_sha256: str) -> Table:
        """Return a candidate that was answered.

        Raises:
            FederationError: it is not there.
        """
        return self._read_candidate(self._sums.folder.stored_candidate(candidate_sha256))

    def _phases(self) -> set[str]:
        entries = self._site.ledger.entries_of(self._study.digest, self._run)
        return {entry.phase for entry in entries}

    def _charge(self, role: Role, phase: str, event: GaussianEvent) -> Charge:
        return Charge(study=self._study.digest, run=self._run, role=role, phase=phase, event=event)

    def _read_candidate(self, candidate: bytes) -> Table:
        try:
            table = read_candidate(candidate, self._study.data, num_rows=self._study.release.rows)
        except InvalidFileError:
            raise FederationError("not a candidate", code="candidate_invalid") from None
        return replace(table, columns=audited_columns(self._study.data, table.columns))

    def _exact_counts(
        self, context: AuditContext, candidate: Table, seen: list[RealPatients]
    ) -> Vector:
        everything, owners, is_member = self._patients.everybody()
        columns = {name: everything[name] for name in audited_names(self._study.data)}
        patients = RealPatients.of(context, columns, owners, is_member)
        counts = {
            "members": count_cells(context.cuts, patients.scores.of_group(is_member)),
            "holdout": count_cells(context.cuts, patients.scores.of_group(~is_member)),
        }
        seen.append(patients)
        utility = np.zeros(0, np.int64)
        if self._study.data.target:
            model = OutcomeModel.fit(self._study.data.audited, candidate.columns)
            held_out = one_row_each(self._patients.holdout, self._site.split_secret)
            prior = self._model_of_prior()
            utility = utility_counts(model, candidate.columns, held_out, prior=prior)
        return np.concatenate([flatten(counts["members"]), flatten(counts["holdout"]), utility])

    def _model_of_prior(self) -> tuple[OutcomeModel, Columns] | None:
        if self._study.data.image is None:
            return None
        from pratique_common.images.prior_rows import prior_rows

        schema, rows = prior_rows(self._study.data)
        return OutcomeModel.fit(schema, rows), rows

    def _write_annex(self, patients: RealPatients, candidate_sha256: str) -> None:
        """Write exact results for the hospital's own eyes; this file is never sent."""
        is_member, cuts = patients.is_member, patients.context.cuts
        num_members = int(is_member.sum())
        family = conclude(
            count_cells(cuts, patients.scores.of_group(is_member)),
            count_cells(cuts, patients.scores.of_group(~is_member)),
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
            "holdout_salt": self._sums.enrolment.salt.hex(),
            "audits": {
                name: {**asdict(audit.result), "p_adjusted": audit.p_adjusted}
                for name, audit in family.items()
            },
            "descriptive_note": WHY_NOT_DECISIVE,
            "local_audits": [asdict(result) for result in run_local_audits(patients)],
        }
        name = f"{self._run}-{candidate_sha256[:12]}.json"
        write_whole(self._site.subfolder("annex") / name, json.dumps(annex, indent=2).encode())


def one_row_each(group: Group, secret: bytes) -> dict[str, NDArray[Any]]:
    """Return one row a patient, any of its rows: the unit of utility counts is the patient.

    A keyed hash chooses, so that no other patient's presence changes the choice.
    """
    patients, owner = np.unique(group.patients.astype(str), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner)
    starts = np.cumsum(counts) - counts
    digests = (hmac.digest(secret, f"row:{p}".encode(), hashlib.sha256) for p in patients)
    drawn = [int.from_bytes(d) % int(count) for d, count in zip(digests, counts, strict=True)]
    rows = order[starts + np.array(drawn, np.int64)]
    return {name: values[rows] for name, values in group.columns.items()}
