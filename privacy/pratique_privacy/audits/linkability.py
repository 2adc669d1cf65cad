"""LINK: does one synthetic row join two halves of a member's record more often than of others?"""

from typing import ClassVar

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts, AuditResult, Bound, Statistic
from pratique_privacy.audits.statistics import Linkability
from pratique_privacy.intervals import excess_p_value, excess_upper_bound, limit_of_detection

_CELLS = slice(1, 2)
_LEAST_REST = 0.01


class LinkabilityAttack:
    """Residual risk (r_members - r_controls) / (1 - r_controls), as in Giomi et al. 2023."""

    id: ClassVar[str] = "LINK"
    title: ClassVar[str] = "Linkability"
    question: ClassVar[str] = "Can two parts of one patient's record be joined?"
    statistic: ClassVar[type[Statistic]] = Linkability

    @staticmethod
    def conclude(
        counts: AuditCounts, policy: ReleasePolicy, *, confidence: float, alpha: float
    ) -> AuditResult:
        """See ``Audit.conclude``; the statistic is the residual risk."""
        found = counts.positives(_CELLS)
        rest = max(1 - found.control_rate, _LEAST_REST)
        upper = excess_upper_bound(found, confidence=confidence) / rest
        risk = found.excess / rest
        return AuditResult(
            id=LinkabilityAttack.id,
            statistic=risk,
            members=found.member_rate,
            controls=found.control_rate,
            interval=(2 * risk - upper, upper),
            p_value=excess_p_value(found),
            bounds=(Bound(rule="linkage_risk", value=upper, limit=policy.linkage_risk),),
            limit_of_detection=limit_of_detection(found, alpha=alpha, power=0.9),
        )
