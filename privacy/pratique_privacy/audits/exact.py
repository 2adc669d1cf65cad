"""EXACT: are members found verbatim in the candidate more often than patients it never saw?"""

from typing import ClassVar

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts, AuditResult, Criterion, Statistic
from pratique_privacy.audits.statistics import EXACT_CELL, Closeness

_CELLS = slice(EXACT_CELL, EXACT_CELL + 1)


class ExactMatch:
    """Distance zero. Its excess is bounded together with near matches, which contain it."""

    id: ClassVar[str] = "EXACT"
    title: ClassVar[str] = "Exact copies"
    question: ClassVar[str] = "Does a synthetic row equal a real record?"
    criterion: ClassVar[Criterion] = "singling out"
    statistic: ClassVar[type[Statistic]] = Closeness

    @staticmethod
    def conclude(
        counts: AuditCounts,
        policy: ReleasePolicy,  # noqa: ARG004
        *,
        confidence: float,
        alpha: float,
    ) -> AuditResult:
        """See ``Audit.conclude``; the statistic is the excess of the rate."""
        return AuditResult.of_excess(
            ExactMatch.id, counts.positives(_CELLS), confidence=confidence, alpha=alpha
        )
