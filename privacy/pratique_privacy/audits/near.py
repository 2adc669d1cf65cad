"""NEAR: are members all but equal to a synthetic row more often than patients it never saw?"""

from typing import ClassVar

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts, AuditResult, Bound, Criterion, Statistic
from pratique_privacy.audits.statistics import EXACT_CELL, NEAR_CELL, Closeness
from pratique_privacy.intervals import excess_bounds

_CELLS = slice(EXACT_CELL, NEAR_CELL + 1)


class NearMatch:
    """Distance within the near radius."""

    id: ClassVar[str] = "NEAR"
    title: ClassVar[str] = "Near copies"
    question: ClassVar[str] = "Is a synthetic row all but equal to a real record?"
    criterion: ClassVar[Criterion] = "singling out"
    statistic: ClassVar[type[Statistic]] = Closeness

    @staticmethod
    def conclude(
        counts: AuditCounts, policy: ReleasePolicy, *, confidence: float, alpha: float
    ) -> AuditResult:
        """See ``Audit.conclude``; the statistic is the excess of the rate."""
        found = counts.positives(_CELLS)
        upper = excess_bounds(found, confidence=confidence)[1]
        bounds = (
            Bound(rule="near_match_excess", value=upper, limit=policy.near_match_excess),
            Bound(
                rule="near_match_patients",
                value=upper * counts.num_members,
                limit=policy.near_match_patients,
            ),
        )
        return AuditResult.of_excess(
            NearMatch.id, found, confidence=confidence, alpha=alpha, bounds=bounds
        )
