"""NEAR: are members all but equal to a synthetic row more often than patients it never saw?"""

from typing import ClassVar

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import (
    NEAR_QUANTILE,
    AuditCounts,
    AuditResult,
    Bound,
    Statistic,
)
from pratique_privacy.audits.statistics import EXACT_CELL, NEAR_CELL, Closeness
from pratique_privacy.intervals import excess_p_value, excess_upper_bound, limit_of_detection

_CELLS = slice(EXACT_CELL, NEAR_CELL + 1)


class NearMatch:
    """Distance within the near radius."""

    id: ClassVar[str] = "NEAR"
    title: ClassVar[str] = "Near copies"
    question: ClassVar[str] = "Is a synthetic row all but equal to a real record?"
    statistic: ClassVar[type[Statistic]] = Closeness

    @staticmethod
    def conclude(
        counts: AuditCounts, policy: ReleasePolicy, *, confidence: float, alpha: float
    ) -> AuditResult:
        """See ``Audit.conclude``; the statistic is the excess of the rate."""
        found = counts.positives(_CELLS)
        upper = excess_upper_bound(found, confidence=confidence)
        return AuditResult(
            id=NearMatch.id,
            statistic=found.excess,
            members=found.member_rate,
            controls=found.control_rate,
            interval=(2 * found.excess - upper, upper),
            p_value=excess_p_value(found),
            bounds=(
                Bound(rule="near_match_excess", value=upper, limit=policy.near_match_excess),
                Bound(
                    rule="near_match_patients",
                    value=upper * counts.num_members,
                    limit=policy.near_match_patients,
                ),
                # The near radius is the public cut at 1 % of the candidate's own rows: an attacker
                # who calls everybody within it a member has 1 % false positives by design.
                Bound(rule="tail_tpr", value=NEAR_QUANTILE + upper, limit=policy.tail_tpr),
            ),
            limit_of_detection=limit_of_detection(found, alpha=alpha, power=0.9),
        )
