"""A site's part in one run, kept between messages by the long-lived daemon."""

from typing import Any

from pratique_client.approval import require
from pratique_client.auditing import SiteAudit
from pratique_client.conclusion import Told, sign_conclusion
from pratique_client.enrolment import Enrolment
from pratique_client.history import earlier_audits
from pratique_client.ledger_witness import require_newest
from pratique_client.patients import load_patients
from pratique_client.site import Site
from pratique_client.sums import SiteSums
from pratique_client.training import SiteTraining
from pratique_common.messages import IDENTITY_PURPOSE, Reply, join_statement
from pratique_common.parts import EarlierAudit
from pratique_common.signing import public_hex
from pratique_privacy.evidence import SiteBudget, spent_events
from pratique_privacy.ledger import Charge


class SiteSession:
    """Data, sums, training and audit of one approved study in one run."""

    def __init__(self, site: Site, study_digest: str, run: str) -> None:
        """Load the data and refuse early what could not be finished.

        A daemon that was started again during a run goes on where the ledger and the run's folder
        say that it stopped.

        Raises:
            FederationError: the study is not approved here, or the data changed during the run.
            InvalidFileError, NotEnoughDataError: the data do not fit the study.
            BudgetExceededError: the whole run could not be paid.
        """
        self.site, self.run = site, run
        approval = self._approval = require(site, study_digest)
        self.study = approval.study
        require_newest(site)
        self._patients = load_patients(site, self.study)
        self.sums = SiteSums(Enrolment(site, approval, run, self._patients.snapshot))
        self.training = SiteTraining(site, self.study, run, self._patients, self.sums)
        self.audit = SiteAudit(site, self.study, run, self._patients, self.sums)
        site.ledger.check_affordable(self._due())
        self.training.warm_up()

    def _due(self) -> list[Charge]:
        """Return what the rest of the run costs; of audits, the first."""
        paid = self.site.ledger.entries_of(self.study.digest, self.run)
        kinds = {(entry.role, _kind(entry.phase)) for entry in paid}
        whole = [*self.training.charges(), *self.audit.charges()]
        return [charge for charge in whole if (charge.role, _kind(charge.phase)) not in kinds]

    def joined(self) -> Reply:
        """Return the site's identity, its commitment to a hold-out and its mask key, signed."""
        commitment = self._patients.commitment(self.sums.enrolment.salt)
        statement = join_statement(
            study_digest=self.study.digest,
            run=self.run,
            site=self.site.name,
            commitment=commitment,
            canary_commitment=self.sums.enrolment.coins.commitment,
        )
        return self.reply(
            public_key=public_hex(self.site.key),
            identity_signature=self.site.sign(IDENTITY_PURPOSE, statement),
            holdout_commitment=commitment,
            canary_commitment=self.sums.enrolment.coins.commitment,
            lacks=self.site.lacks(self.study.data),
            mask_key=self.sums.enrolment.mask_key,
        )

    def reply(self, **fields: Any) -> Reply:
        """Return a reply with the site's name and the head of its ledger."""
        return Reply(site=self.site.name, ledger_head=self.site.ledger.verify(), **fields)

    def record(self, event: str, **fields: str) -> None:
        """Record an event of this run in the security log."""
        self.site.security.record(event, study=self.study.digest, run=self.run, **fields)

    def audited(self, **fields: Any) -> Reply:
        """Return a reply that also tells what was spent and audited before, and canaries' coins.

        Training is over. All of it follows from studies, and coins from no record.
        """
        budget = self._budget()
        return self.reply(
            epsilon_spent=budget.spent,
            epsilon_budget=budget.budget,
            events=budget.events,
            earlier=self._earlier(),
            canaries=self.sums.enrolment.coins.opening,
            **fields,
        )

    def _budget(self) -> SiteBudget:
        ledger = self.site.ledger
        return SiteBudget(
            spent=ledger.spent(),
            budget=ledger.epsilon,
            events=spent_events(ledger.entries_of(self.study.digest, self.run)),
        )

    def _earlier(self) -> tuple[EarlierAudit, ...]:
        return earlier_audits(self.site, self.study.digest, self.run)

    def sign(self, manifest_json: str, report_json: str) -> str:
        """Return the site's signature of the coordinator's conclusion, after redoing it."""
        self.sums.conclude()
        return sign_conclusion(
            self.site,
            self.study,
            self.run,
            self.audit,
            self.sums,
            Told(
                site=self.site.name,
                commitment=self._patients.commitment(self.sums.enrolment.salt),
                canaries=self.sums.enrolment.coins,
                lacks=self.site.lacks(self.study.data),
                ledger_head=self.site.ledger.verify(),
                budget=self._budget() if self.audit.candidates_answered() else None,
                earlier=self._earlier(),
            ),
            self._approval.sites,
            manifest_json=manifest_json,
            report_json=report_json,
        )


def _kind(phase: str) -> str:
    """Return a phase without the candidate that an audit is of."""
    name, _, number = phase.partition(" ")
    return phase if number.isdigit() else name
