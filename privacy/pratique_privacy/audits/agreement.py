"""FS: are members among those whom agreement with one synthetic row betrays most?

After Fellegi & Sunter (1969), as a likelihood ratio: see ``pratique_privacy.agreement``. It finds
copies of which a third or half of the cells were redrawn, which distances do not see.
"""

from typing import ClassVar

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts, AuditResult, Criterion, Statistic
from pratique_privacy.audits.statistics import Agreement
from pratique_privacy.audits.tail_rate import tail_bound


class _AgreementTail:
    """Members among the patients with the highest scores; a share of all patients is taken."""

    id: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str] = "Was a synthetic row made of one record, some of its cells changed?"
    criterion: ClassVar[Criterion] = "singling out"
    statistic: ClassVar[type[Statistic]] = Agreement
    share: ClassVar[float]
    bounded: ClassVar[bool] = False
    """Whether a tolerance is set for the attack; once is enough."""

    @classmethod
    def conclude(
        cls,
        counts: AuditCounts,
        policy: ReleasePolicy,
        *,
        confidence: float,
        alpha: float,
    ) -> AuditResult:
        """See ``Audit.conclude``; the statistic is the excess of the rate."""
        bounds = (tail_bound(counts, policy, confidence=confidence),) if cls.bounded else ()
        return AuditResult.of_excess(
            cls.id, counts.top(cls.share), confidence=confidence, alpha=alpha, bounds=bounds
        )


class AgreementTop1(_AgreementTail):
    """The top 1 %: few copies, or copies with many cells changed."""

    id: ClassVar[str] = "FS_1"
    title: ClassVar[str] = "Altered copies, top 1 %"
    share: ClassVar[float] = 0.01
    bounded: ClassVar[bool] = True


class AgreementTop5(_AgreementTail):
    """The top 5 %: many copies."""

    id: ClassVar[str] = "FS_5"
    title: ClassVar[str] = "Altered copies, top 5 %"
    share: ClassVar[float] = 0.05
