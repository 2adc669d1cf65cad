"""MIA_dist: how well does the distance to the candidate tell members from others, over all cuts?"""

from typing import ClassVar

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts, AuditResult, Bound, Criterion, Statistic
from pratique_privacy.audits.statistics import Closeness
from pratique_privacy.audits.tail_rate import tail_bound


class DistanceMembership:
    """Area under the ROC curve of "closer means member", on 16 public cells."""

    id: ClassVar[str] = "MIA_dist"
    title: ClassVar[str] = "Membership by distance"
    question: ClassVar[str] = "Does closeness betray who was in the training data?"
    criterion: ClassVar[Criterion] = "membership"
    statistic: ClassVar[type[Statistic]] = Closeness

    @staticmethod
    def conclude(
        counts: AuditCounts,
        policy: ReleasePolicy,
        *,
        confidence: float,
        alpha: float,  # noqa: ARG004
    ) -> AuditResult:
        """See ``Audit.conclude``; the statistic is the AUC, .5 is guessing."""
        found = counts.auc(confidence=confidence)
        bounds = (
            Bound(rule="attack_auc", value=found.upper, limit=policy.attack_auc),
            tail_bound(counts, policy, confidence=confidence),
        )
        return AuditResult.of_auc(DistanceMembership.id, found, bounds=bounds)
