"""DOMIAS: do members lie where the candidate is denser than patients in general?

After van Breugel et al. (2023), with nearest rows for densities and, instead of real reference
data, a smooth table made of the candidate.
"""

from typing import ClassVar

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts, AuditResult, Bound, Criterion, Statistic
from pratique_privacy.audits.statistics import ISOLATED, OTHERS, Density
from pratique_privacy.audits.tail_rate import tail_bound


class DensityMembership:
    """Area under the ROC curve of "denser than expected means member", on 16 public cells."""

    id: ClassVar[str] = "DOMIAS"
    title: ClassVar[str] = "Membership by density"
    question: ClassVar[str] = "Is the table denser around those who were in the training data?"
    criterion: ClassVar[Criterion] = "membership"
    statistic: ClassVar[type[Statistic]] = Density

    @staticmethod
    def conclude(
        counts: AuditCounts,
        policy: ReleasePolicy,
        *,
        confidence: float,
        alpha: float,  # noqa: ARG004
    ) -> AuditResult:
        """See ``Audit.conclude``; the statistic is the AUC, .5 is guessing."""
        whole = counts.added_up(ISOLATED, OTHERS)
        found = whole.auc(confidence=confidence)
        bounds = (
            Bound(rule="attack_auc", value=found.upper, limit=policy.attack_auc),
            tail_bound(whole, policy, confidence=confidence),
        )
        return AuditResult.of_auc(DensityMembership.id, found, bounds=bounds)
