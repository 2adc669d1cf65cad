"""NEAR: are members all but equal to a synthetic row more often than patients it never saw?"""

from typing import ClassVar

import numpy as np

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts, AuditResult, Bound, Criterion, Statistic
from pratique_privacy.audits.statistics import EXACT_CELL, NEAR_CELL, Closeness
from pratique_privacy.intervals import Positives, excess_upper_bound

_CELLS = slice(EXACT_CELL, NEAR_CELL + 1)
_TAIL_FPR = 0.01


def _tail(counts: AuditCounts) -> Positives:
    """Return the counts of the widest tail of closeness in which at most 1 % of controls are.

    There TPR = FPR + excess ≤ 1 % + the excess's bound, whatever FPR exactly is.
    """
    rates = np.cumsum(counts.holdout) / counts.num_holdout
    above = np.flatnonzero(rates > _TAIL_FPR)
    width = int(above[0]) if len(above) else len(rates)
    return counts.positives(slice(0, max(width, 1)))


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
        upper = excess_upper_bound(found, confidence=confidence)
        tail = excess_upper_bound(_tail(counts), confidence=confidence)
        bounds = (
            Bound(rule="near_match_excess", value=upper, limit=policy.near_match_excess),
            Bound(
                rule="near_match_patients",
                value=upper * counts.num_members,
                limit=policy.near_match_patients,
            ),
            Bound(rule="tail_tpr", value=_TAIL_FPR + tail, limit=policy.tail_tpr),
        )
        return AuditResult.of_excess(
            NearMatch.id, found, confidence=confidence, alpha=alpha, bounds=bounds
        )
