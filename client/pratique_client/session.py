"""A site's part in one run, kept between messages by the long-lived daemon."""

from typing import Any

from pratique_client.approval import require
from pratique_client.auditing import SiteAudit
from pratique_client.conclusion import Told, sign_conclusion
from pratique_client.patients import load_patients
from pratique_client.site import Site
from pratique_client.training import SiteTraining
from pratique_common.errors import FederationError
from pratique_common.messages import IDENTITY_PURPOSE, Reply, join_statement
from pratique_common.signing import public_hex, sign
from pratique_privacy.conclusion import SiteBudget


class SiteSession:
    """Data, training and audit of one approved study in one run."""

    def __init__(self, site: Site, study_digest: str, run: str) -> None:
        """Load the data and refuse early what could not be finished.

        Raises:
            FederationError: the study is not approved here.
            InvalidFileError, NotEnoughDataError: the data do not fit the study.
            BudgetExceededError: the whole run could not be paid.
        """
        self.site, self.run = site, run
        self._ledger_head = ""
        self._budget: SiteBudget | None = None
        self.study = require(site, study_digest)
        site.ledger.verify()
        self._patients = load_patients(site, self.study, run)
        self.training = SiteTraining(site, self.study, run, self._patients)
        self.audit = SiteAudit(site, self.study, run, self._patients)
        site.ledger.check_affordable([*self.training.charges(), *self.audit.charges()])

    def joined(self) -> Reply:
        """Return the site's identity and its commitment to a hold-out, signed."""
        commitment = self._patients.commitment
        statement = join_statement(
            study_digest=self.study.digest,
            run=self.run,
            site=self.site.name,
            commitment=commitment,
        )
        return self.reply(
            public_key=public_hex(self.site.key),
            identity_signature=sign(self.site.key, IDENTITY_PURPOSE, statement),
            holdout_commitment=commitment,
        )

    def reply(self, **fields: Any) -> Reply:
        """Return a reply with the site's name and the head of its ledger."""
        self._ledger_head = self.site.ledger.verify()
        return Reply(site=self.site.name, ledger_head=self._ledger_head, **fields)

    def audited(self) -> Reply:
        """Return a reply that also tells the budget: it follows from studies, not from records."""
        ledger = self.site.ledger
        self._budget = SiteBudget(spent=ledger.spent(), budget=ledger.epsilon)
        return self.reply(epsilon_spent=self._budget.spent, epsilon_budget=self._budget.budget)

    def require_trained(self) -> None:
        """Raise FederationError unless this run's training was finished here."""
        if not self.training.finished:
            raise FederationError("this run was not trained to its end here", code="not_trained")

    def sign(self, manifest_json: str, report_json: str) -> str:
        """Return the site's signature of the coordinator's conclusion, after redoing it."""
        return sign_conclusion(
            self.site,
            self.study,
            self.run,
            self.audit,
            Told(self.site.name, self._patients.commitment, self._ledger_head, self._budget),
            manifest_json=manifest_json,
            report_json=report_json,
        )
