"""Numbered checks of a site: each is OK or one sentence with what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pratique_client.approval import approved_digests, require
from pratique_client.patients import load_patients
from pratique_client.site import Site
from pratique_client.sources import DATA_SOURCES
from pratique_common.errors import FederationError, PratiqueError
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
    """Yield the checks of a site, one by one; later ones are run even if one fails."""
    yield _check("site key", lambda: f"fingerprint {fingerprint(public_hex(site.key))}")
    yield _check("secret of the hold-out split", lambda: _secret(site))
    yield _check("ledger", lambda: _ledger(site))
    digests = approved_digests(site)
    if not digests:
        missing = FederationError(
            "no study is approved at this site: read one and run 'pratique-client approve'",
            code="study_not_approved",
        )
        yield Check("approved studies", str(missing), missing)
    for digest in digests:
        yield _check(f"study {digest[:12]}", lambda d=digest: _approval(site, d))  # type: ignore[misc]
        yield _check("  data", lambda d=digest: _data(site, require(site, d).study))  # type: ignore[misc]
        yield _check("  budget", lambda d=digest: _budget(site, require(site, d).study))  # type: ignore[misc]


def require_all(site: Site) -> None:
    """Raise the first failed check's error."""
    for check in run_checks(site):
        if check.error is not None:
            raise check.error


def _check(title: str, look: Callable[[], str]) -> Check:
    try:
        return Check(title, look())
    except PratiqueError as error:
        return Check(title, str(error), error)


def _secret(site: Site) -> str:
    return f"{len(site.split_secret) * 8} bits"


def _ledger(site: Site) -> str:
    site.ledger.verify()
    return f"{len(site.ledger.entries())} entries, chain intact"


def _approval(site: Site, digest: str) -> str:
    from pratique_common.generators.build import build_generator  # brings torch

    approval = require(site, digest)
    study = approval.study
    build_generator(study, source=f"study {digest[:12]}")
    others = f", with {', '.join(sorted(approval.sites))}" if approval.sites else ""
    return f"'{study.name}'{others}; approval signed and unchanged"


def _data(site: Site, study: StudySpec) -> str:
    load_patients(site, study, "check")
    source = DATA_SOURCES[site.settings.source.kind]
    unused = source.unused_columns(site.source_path, study.data)
    ignored = f"; never read: {', '.join(unused)}" if unused else ""
    lacked = site.lacks(study.data)
    missing = f"; does not record: {', '.join(lacked)}" if lacked else ""
    return f"{site.source_path.name} fits the study{missing}{ignored}"


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
