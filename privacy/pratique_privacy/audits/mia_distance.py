"""MIA_dist: how well does the distance to the candidate tell members from others, over all cuts?"""

from typing import ClassVar

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts, AuditResult, Bound, Statistic
from pratique_privacy.audits.statistics import Closeness
from pratique_privacy.intervals import histogram_auc


class DistanceMembership:
    """Area under the ROC curve of "closer means member", on 16 public cells."""

    id: ClassVar[str] = "MIA_dist"
    title: ClassVar[str] = "Membership by distance"
    question: ClassVar[str] = "Does closeness betray who was in the training data?"
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
        estimate = histogram_auc(
            counts.members.astype(float),
            counts.holdout.astype(float),
            sigma_members=counts.sigma_members,
            sigma_controls=counts.sigma_holdout,
            confidence=confidence,
        )
        return AuditResult(
            id=DistanceMembership.id,
            statistic=estimate.auc,
            members=estimate.auc,
            controls=0.5,
            interval=(estimate.lower, estimate.upper),
            p_value=estimate.p_value,
            bounds=(Bound(rule="attack_auc", value=estimate.upper, limit=policy.attack_auc),),
            limit_of_detection=None,
        )
