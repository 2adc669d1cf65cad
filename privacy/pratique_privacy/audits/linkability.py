"""LINK: does one synthetic row join two halves of a member's record more often than of others?"""

from typing import ClassVar

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts, AuditResult, Criterion, Statistic
from pratique_privacy.audits.statistics import LINKABLE, Joins


class LinkabilityAttack:
    """One row is nearest on both halves of the columns."""

    id: ClassVar[str] = "LINK"
    title: ClassVar[str] = "Linkability"
    question: ClassVar[str] = "Can two parts of one patient's record be joined?"
    criterion: ClassVar[Criterion] = "linkability"
    statistic: ClassVar[type[Statistic]] = Joins

    @staticmethod
    def conclude(
        counts: AuditCounts, policy: ReleasePolicy, *, confidence: float, alpha: float
    ) -> AuditResult:
        """See ``Audit.conclude``; the statistic is the residual risk."""
        return AuditResult.of_residual_risk(
            LinkabilityAttack.id,
            counts.positives(LINKABLE),
            rule="linkage_risk",
            limit=policy.linkage_risk,
            confidence=confidence,
            alpha=alpha,
        )
