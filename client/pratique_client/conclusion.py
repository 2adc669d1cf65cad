"""A site checks the coordinator's conclusion by itself before it signs. A veto is one-way."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from pratique_client.auditing import SiteAudit
from pratique_client.history import keep_decision
from pratique_client.site import Site
from pratique_client.sums import SiteSums
from pratique_common.bundle import REFUSAL_FILES, SIGNATURE_PURPOSE, Manifest
from pratique_common.canonical import sha256_hex
from pratique_common.errors import FederationError, VerificationError
from pratique_common.messages import audit_label
from pratique_common.parts import EarlierAudit
from pratique_common.released_copies import PARQUET, RELEASE_FILES
from pratique_common.signing import public_hex
from pratique_common.study import StudySpec
from pratique_privacy.canary_coins import Coins
from pratique_privacy.claims import agree, claims
from pratique_privacy.conclusion import audit_form, conclude_evidence
from pratique_privacy.evidence import Evidence, SiteBudget
from pratique_privacy.post_processing.weights import WEIGHTS_FILE


@dataclass(frozen=True)
class Told:
    """What this site told the coordinator of itself in this run."""

    site: str
    commitment: str
    canaries: Coins
    lacks: tuple[str, ...]
    ledger_head: str
    budget: SiteBudget | None
    earlier: tuple[EarlierAudit, ...]


def sign_conclusion(
    site: Site,
    study: StudySpec,
    run: str,
    audit: SiteAudit,
    sums: SiteSums,
    told: Told,
    identities: Mapping[str, str],
    *,
    manifest_json: str,
    report_json: str,
) -> str:
    """Return the site's signature of a manifest after redoing its conclusion.

    Args:
        site, study, run: this site, and what it takes part in.
        audit, sums: what this site answered.
        told: what this site said of itself.
        identities: site → public key, from what a person at this site approved.
        manifest_json, report_json: the coordinator's conclusion.

    Raises:
        FederationError: something in it is not what this site saw or would conclude.
    """
    try:
        manifest = Manifest.model_validate_json(manifest_json)
        report = json.loads(report_json)
        evidence = Evidence.model_validate(report["evidence"])
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError):
        raise _veto("conclusion_malformed") from None
    if manifest.canonical() != manifest_json.encode():
        raise _veto("conclusion_malformed")
    # 1. It is about this study, this run and this site.
    me = [signer for signer in manifest.signers if signer.name == site.name]
    if (
        manifest.study_digest != study.digest
        or manifest.run != run
        or not me
        or me[0].public_key != public_hex(site.key)
    ):
        raise _veto("manifest_of_another_run")
    coordinators = [s.public_key for s in manifest.signers if s.role == "coordinator"]
    if coordinators != [site.settings.coordinator.public_key]:
        raise _veto("coordinator_unknown")
    # 2. The report that the manifest names is the one shown here, and so is the candidate.
    if manifest.files.get("report.json") != sha256_hex(report_json.encode()):
        raise _veto("report_mismatch")
    if manifest.kind == "release" and (manifest.files.get(PARQUET) != manifest.candidate_sha256):
        raise _veto("candidate_mismatch")
    if not set(manifest.files) <= (RELEASE_FILES if manifest.kind == "release" else REFUSAL_FILES):
        raise _veto("files_unknown")
    if (
        manifest.kind == "release"
        and manifest.candidate_sha256 is not None
        and audit.stored_answer(manifest.candidate_sha256) is not None
        and manifest.files.get(WEIGHTS_FILE) != sums.folder.stored_model(manifest.candidate_sha256)
    ):
        raise _veto("model_mismatch")
    # 3. My own answer stands in it unchanged, among the same sites, and so do the others' own.
    mine = None
    if manifest.candidate_sha256 is not None:
        mine = audit.stored_answer(manifest.candidate_sha256)
    shown = evidence.answers.get(site.name)
    if (mine is None) != (shown is None):
        raise _veto("counts_mismatch")
    if mine is not None and shown is not None:
        if mine != shown.model_copy(update={"self_seed": ""}):
            raise _veto("counts_mismatch")
        _check_answers(study, evidence, sums, manifest.candidate_sha256 or "")
    # 4. It counts my answers right, and names those who trained as signers, with the keys that I
    #    know them by, and nobody left out whose sums I helped to open.
    signers = {s.name: s.public_key for s in manifest.signers if s.role == "site"}
    needed = manifest.kind == "release"
    if set(signers) != set(evidence.trained) or me[0].required != needed:
        raise _veto("signers_mismatch")
    if any(identities.get(name) != key for name, key in signers.items()):
        raise _veto("signers_unknown")
    if not sums.folder.survivors_seen() <= set(evidence.trained):
        raise _veto("trained_mismatch")
    if audit.candidates_answered() - {manifest.candidate_sha256}:
        raise _veto("history_mismatch")
    if mine is not None and evidence.earlier.get(site.name) != told.earlier:
        raise _veto("history_mismatch")
    # 5. What it says of me is what I told: commitments, ledger and budget.
    if told.site in evidence.trained and (
        evidence.commitments.get(told.site) != told.commitment
        or evidence.ledger_heads.get(told.site) != told.ledger_head
        or evidence.budgets.get(told.site) != told.budget
        or _canaries_differ(told, evidence)
        or evidence.lacks.get(told.site, ()) != told.lacks
        or manifest.ledger_heads != evidence.ledger_heads
    ):
        raise _veto("evidence_mismatch")
    # 6. I come to the same decision, and the same claims, from the same evidence.
    candidate = None
    if mine is not None and manifest.candidate_sha256 is not None:
        candidate = audit.stored_candidate(manifest.candidate_sha256).columns
    conclusion = conclude_evidence(study, evidence, candidate)
    decision = conclusion.gate.decision
    if decision != manifest.decision or (decision == "granted") != needed:
        raise _veto("decision_mismatch")
    expected = claims(study, evidence, conclusion)
    if not agree({key: report.get(key) for key in expected}, expected):
        raise _veto("claims_mismatch")
    privacy = study.privacy
    if (
        manifest.simulated != study.simulated
        or manifest.noise != privacy.noise
        or manifest.tolerated_dropouts != privacy.tolerated_dropouts
        or manifest.colluding_sites != privacy.colluding_sites
    ):
        raise _veto("claims_mismatch")
    if manifest.kind == "release" and mine is None:
        raise _veto("not_audited_here")
    keep_decision(site, run, decision)
    return site.sign(SIGNATURE_PURPOSE, manifest_json.encode())


def _canaries_differ(told: Told, evidence: Evidence) -> bool:
    """Return whether my canaries stand in it with other coins, or not although I opened them."""
    shown = evidence.canaries.get(told.site)
    if shown is None:
        return told.budget is not None
    return shown.commitment != told.canaries.commitment or shown.opening != told.canaries.opening


def _check_answers(
    study: StudySpec, evidence: Evidence, sums: SiteSums, candidate_sha256: str
) -> None:
    """Raise a veto unless every site of the roster signed the answer that is shown as its own."""
    named = {key.site for key in evidence.roster}
    if evidence.roster != sums.enrolment.mask_keys or not named <= set(evidence.commitments):
        raise _veto("roster_mismatch")
    try:
        sums.check_vectors(
            audit_label(candidate_sha256),
            audit_form(study, sums.enrolment.num_sites),
            evidence.answers,
        )
    except (VerificationError, FederationError, ValueError):
        raise _veto("counts_mismatch") from None


def _veto(code: str) -> FederationError:
    return FederationError(f"this site does not sign: {code.replace('_', ' ')}", code=code)
