"""OUTLIER: are unusual patients betrayed, whom averages over all patients hide?"""

from typing import ClassVar

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts, AuditResult, Criterion, Statistic
from pratique_privacy.audits.statistics import ISOLATED, Density

_TOP_SHARE = 0.005
"""Of all patients: a tenth of those 5 % that are called isolated."""


class OutlierMembership:
    """Members among isolated patients around whom the candidate is densest.

    Rates are of all patients. It has a test and no tolerance: its few controls would make any bound
    a matter of chance.
    """

    id: ClassVar[str] = "OUTLIER"
    title: ClassVar[str] = "Unusual patients"
    question: ClassVar[str] = "Does the table betray patients with unusual records?"
    criterion: ClassVar[Criterion] = "membership"
    statistic: ClassVar[type[Statistic]] = Density

    @staticmethod
    def conclude(
        counts: AuditCounts,
        policy: ReleasePolicy,  # noqa: ARG004
        *,
        confidence: float,
        alpha: float,
    ) -> AuditResult:
        """See ``Audit.conclude``; the statistic is the excess of the rate."""
        found = counts.added_up(ISOLATED).top(_TOP_SHARE)
        return AuditResult.of_excess(
            OutlierMembership.id, found, confidence=confidence, alpha=alpha
        )
