"""INFER: does the nearest synthetic row tell a member's secret oftener than another patient's?"""

from typing import ClassVar

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts, AuditResult, Criterion, Statistic
from pratique_privacy.audits.statistics import INFERRED, Joins


class InferenceAttack:
    """The row nearest on all other columns has the patient's value of a sensitive one.

    Of levels the commonest does not count: see ``PatientScores``.
    """

    id: ClassVar[str] = "INFER"
    title: ClassVar[str] = "Attribute inference"
    question: ClassVar[str] = "Does a synthetic row give away a sensitive value of one patient?"
    criterion: ClassVar[Criterion] = "inference"
    statistic: ClassVar[type[Statistic]] = Joins

    @staticmethod
    def conclude(
        counts: AuditCounts, policy: ReleasePolicy, *, confidence: float, alpha: float
    ) -> AuditResult:
        """See ``Audit.conclude``; the statistic is the residual risk."""
        return AuditResult.of_residual_risk(
            InferenceAttack.id,
            counts.positives(INFERRED),
            rule="inference_risk",
            limit=policy.inference_risk,
            confidence=confidence,
            alpha=alpha,
        )
