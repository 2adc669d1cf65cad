"""Numbered checks of a site: each is OK or one sentence with what to do.

A daemon starts when all that lies at the hospital is right. Whether the coordinator can be reached
is looked at by ``check`` alone: a daemon waits for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pratique_client.approval import approved_digests, require
from pratique_client.connection import load_node_key, look_at_connection, trusted_roots
from pratique_client.contact_sheet import write_contact_sheet
from pratique_client.disk import require_room
from pratique_client.ledger_witness import require_newest
from pratique_client.patients import load_patients
from pratique_client.site import SITE_FILE, Site
from pratique_common.errors import (
    FederationError,
    InvalidFileError,
    NotEnoughDataError,
    PratiqueError,
)
from pratique_common.signing import fingerprint, public_hex
from pratique_common.study import StudySpec
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.ledger import Charge


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, what was found, and the error if it failed."""

    title: str
    finding: str
    error: PratiqueError | None = None

    @property
    def passed(self) -> bool:
        """Whether there is nothing to do."""
        return self.error is None


def run_checks(site: Site) -> Iterator[Check]:
    """Yield all checks of a site, one by one; later ones are run even if one fails."""
    yield from _checks_of_site(site)
    yield from _checks_of_connection(site)
    yield from _checks_of_studies(site, with_sheets=True)


def require_local(site: Site) -> None:
    """Raise the first failed check's error; the coordinator is not asked."""
    for checks in (_checks_of_site(site), _checks_of_studies(site, with_sheets=False)):
        for check in checks:
            if check.error is not None:
                raise check.error


def _checks_of_site(site: Site) -> Iterator[Check]:
    yield Check("site file", f"{site.folder / SITE_FILE} is valid")
    yield _check("disk", lambda: require_room(site.folder))
    yield _check("site key", lambda: f"fingerprint {fingerprint(public_hex(site.key))}")
    if site.settings.coordinator.root_certificates is not None:
        yield _check("node key", lambda: _node_key(site))
        yield _check("root certificates", lambda: _roots(site))
    yield _check("secret of the hold-out split", lambda: _secret(site))
    yield _check("ledger", lambda: _ledger(site))
    yield _check("data source", lambda: _source(site))
    yield _check("GPU", lambda: _gpu(site))


def _checks_of_connection(site: Site) -> Iterator[Check]:
    if site.settings.coordinator.root_certificates is None:
        yield Check("connection", "a coordinator on this machine: not tried")
        return
    try:
        for title, finding in look_at_connection(site):
            error = finding if isinstance(finding, PratiqueError) else None
            yield Check(title, str(finding), error)
    except InvalidFileError as error:  # told before, by the check of that file
        yield Check("connection", "not tried", error)


def _checks_of_studies(site: Site, *, with_sheets: bool) -> Iterator[Check]:
    digests = approved_digests(site)
    if not digests:
        missing = FederationError(
            "no study is approved at this site: read one and run 'pratique-client approve'",
            code="study_not_approved",
        )
        yield Check("approved studies", str(missing), missing)
    for digest in digests:
        approval = _check(f"study {digest[:12]}", lambda d=digest: _approval(site, d))  # type: ignore[misc]
        yield approval
        if approval.passed:
            study = require(site, digest).study
            yield from _checks_of_study(site, study, with_sheet=with_sheets)


def _checks_of_study(site: Site, study: StudySpec, *, with_sheet: bool) -> Iterator[Check]:
    few, patients = None, None
    try:
        patients = load_patients(site, study)
    except NotEnoughDataError as error:
        few = error
    except PratiqueError as error:
        yield Check("  data", str(error), error)
        return
    yield _check("  data", lambda: _data(site, study))
    # No number: what this prints may be sent to somebody who helps.
    yield Check("  patients", "enough for both roles" if few is None else str(few), few)
    if with_sheet and study.data.image is not None and patients is not None:
        columns = patients.rows.columns
        yield _check("  contact sheet", lambda: write_contact_sheet(site, study, columns))
    yield _check("  budget", lambda: _budget(site, study))


def _check(title: str, look: Callable[[], str]) -> Check:
    try:
        return Check(title, look())
    except PratiqueError as error:
        return Check(title, str(error), error)


def _secret(site: Site) -> str:
    return f"{len(site.split_secret) * 8} bits"


def _ledger(site: Site) -> str:
    require_newest(site)
    return f"{len(site.ledger.entries())} entries, chain intact"


def _gpu(site: Site) -> str:
    from pratique_client.device import describe_device  # brings torch

    return describe_device(site)


def _node_key(site: Site) -> str:
    load_node_key(site)
    return "ECDSA P-384, for the connection"


def _roots(site: Site) -> str:
    found = len(trusted_roots(site).get_ca_certs())
    return f"{found} in {site.settings.coordinator.root_certificates}"


def _source(site: Site) -> str:
    source = site.settings.source
    num_columns = len(source.names(site.site_file))
    return f"{source.kind}: {source.describe(site.site_file)}, {num_columns} columns"


def _approval(site: Site, digest: str) -> str:
    from pratique_common.generators.build import build_generator  # brings torch

    approval = require(site, digest)
    study = approval.study
    build_generator(study, source=f"study {digest[:12]}")
    others = f", with {', '.join(sorted(approval.sites))}" if approval.sites else ""
    return f"'{study.name}'{others}; approval signed and unchanged"


def _data(site: Site, study: StudySpec) -> str:
    source = site.settings.source
    unused = source.unused_columns(site.site_file, study.data)
    ignored = f"; not used: {', '.join(unused)}" if unused else ""
    lacked = site.lacks(study.data)
    missing = f"; does not record: {', '.join(lacked)}" if lacked else ""
    return f"{source.describe(site.site_file)} can be read and fits the study{missing}{ignored}"


def _budget(site: Site, study: StudySpec) -> str:
    plan = PrivacyPlan(study)
    members = [("member", event) for event in plan.member_events()]
    holdout = [("holdout", event) for event in plan.holdout_events()]
    charges = [
        Charge(study=study.digest, run="check", role=role, phase="check", event=event)  # type: ignore[arg-type]
        for role, event in [*members, *holdout]
    ]
    site.ledger.check_affordable(charges)
    return f"ε = {site.ledger.spent():.2f} of {site.ledger.epsilon:g} spent; one run fits"
