"""The report of a bundle or refusal, printed anew after everything in it was checked.

The page that lies in a bundle was made by the coordinator, and sites sign its hash without seeing
it. This one is made here, of ``report.json``, whose claims are concluded again from its evidence.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from pydantic import ValidationError

from pratique_common.bundle import VerifiedBundle, verify_bundle
from pratique_common.errors import VerificationError
from pratique_common.images.audited import audited_columns
from pratique_common.signing import fingerprint
from pratique_common.study import StudySpec, parse_study_text
from pratique_common.tables import read_candidate
from pratique_privacy.audits.context import Columns
from pratique_privacy.claims import agree, claims
from pratique_privacy.conclusion import conclude_evidence
from pratique_privacy.evidence import Evidence
from pratique_privacy.gate import CONTROL
from pratique_server.report.content import of_study
from pratique_server.report.page import Signed, render_report


def reprint(bundle: Path, *, trust: Mapping[str, str] | None = None) -> tuple[VerifiedBundle, str]:
    """Return what was verified, and the report's page.

    Args:
        bundle: a folder or a ``.zip``.
        trust: name → public key that the reader knows.

    Raises:
        VerificationError: a hash or signature is wrong, or a claim does not follow from the
            evidence.
    """
    verified = verify_bundle(bundle, trust=trust)
    report = _checked(verified)
    prints = {signer.name: fingerprint(signer.public_key) for signer in verified.signed_by}
    signed = Signed(fingerprints=prints, identities_checked=verified.identities_checked)
    try:
        return verified, render_report(report, signed=signed)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, TemplateError):
        raise _not_ours() from None


def _checked(verified: VerifiedBundle) -> dict[str, Any]:
    """Return the report after concluding again from its evidence."""
    study = parse_study_text(verified.contents["study.toml"].decode(), source="study.toml")
    report = verified.report
    try:
        evidence = Evidence.model_validate(report["evidence"])
    except (KeyError, ValidationError):
        raise _not_ours() from None
    rows = _released_rows(study, verified)
    expected = claims(study, evidence, conclude_evidence(study, evidence, rows)) | of_study(study)
    if rows is None:
        expected = _with_control_of(report, expected)
    for name, value in expected.items():
        if not agree(report.get(name), value):
            raise VerificationError(
                f"report.json: {name}: it does not follow from the evidence and the study; do not "
                "rely on this report, or print it with the version that made it"
            )
    return report | {"evidence": evidence.model_dump(mode="json")}


def _released_rows(study: StudySpec, verified: VerifiedBundle) -> Columns | None:
    """Return the rows that were audited; a refusal does not hold them."""
    content = verified.contents.get("synthetic.parquet")
    if content is None:
        return None
    rows = read_candidate(content, study.data, num_rows=study.release.rows)
    return audited_columns(study.data, rows.columns)


def _with_control_of(report: Mapping[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Return claims with the control as the report has it: repeating it takes the table.

    It cannot turn a refusal into anything else, so the decision is still checked.
    """
    shown = report.get("reasons")
    if not isinstance(shown, list) or not all(isinstance(rule, dict) for rule in shown):
        raise _not_ours()
    controls = [
        rule for rule in shown if rule.get("rule") == CONTROL and type(rule.get("passed")) is bool
    ]
    reasons = [
        {**rule, "passed": controls[0]["passed"]} if controls and rule["rule"] == CONTROL else rule
        for rule in expected["reasons"]
    ]
    return expected | {"control": report.get("control"), "reasons": reasons}


def _not_ours() -> VerificationError:
    return VerificationError("report.json is not a report of this version")
