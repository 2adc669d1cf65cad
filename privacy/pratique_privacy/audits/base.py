"""What an audit is made of.

    public context   from the candidate and the schema alone (``context.py``)
    attack           at a site: a public function of each patient's own records (``scores.py``),
                     counted into cells (``Statistic``), one patient in one cell
    conclude         at the coordinator, and again at every site, from the summed counts

Everything is scored per patient: the patient is the unit of privacy, and the labels of patients are
what the null hypothesis exchanges.
"""

from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.context import Cuts
from pratique_privacy.audits.scores import PatientScores
from pratique_privacy.detection import limit_of_detection
from pratique_privacy.intervals import (
    Positives,
    control_rate_bounds,
    excess_bounds,
    excess_p_value,
)
from pratique_privacy.roc import AucEstimate, histogram_auc

IntArray = NDArray[np.int64]

Criterion = Literal["singling out", "linkability", "inference", "membership"]
"""Of Opinion 05/2014 (WP216) of the Article 29 Working Party; membership is more than these."""


class Statistic(Protocol):
    """Puts each patient into one cell: adding or removing a patient moves one count by 1."""

    name: ClassVar[str]
    num_cells: ClassVar[int]

    @staticmethod
    def cells(cuts: Cuts, scores: PatientScores) -> IntArray:
        """Return each patient's cell, shape (P,)."""


@dataclass(frozen=True, kw_only=True)
class AuditCounts:
    """Cell counts of one statistic over all sites, and the noise that is in them.

    Attributes:
        members, holdout: counts a cell; noised ones are real numbers and may be negative.
        num_members, num_holdout: sizes, estimated where noised.
        sigma_members, sigma_holdout: deviation of the noise a cell; 0 is exact.
        member_share: probability of a patient to be a member.
    """

    members: NDArray[Any]
    holdout: NDArray[Any]
    num_members: float
    num_holdout: float
    sigma_members: float
    sigma_holdout: float
    member_share: float

    def auc(self, *, confidence: float) -> AucEstimate:
        """Return the AUC of "a lower cell means member".

        Raises:
            ValueError: noise leaves less than one patient in a group.
        """
        return histogram_auc(
            self.members.astype(float),
            self.holdout.astype(float),
            sigma_members=self.sigma_members,
            sigma_controls=self.sigma_holdout,
            confidence=confidence,
        )

    def added_up(self, *parts: slice) -> "AuditCounts":
        """Return counts added up over parts of the cells, of one length."""
        return replace(
            self,
            members=np.sum([self.members[part] for part in parts], axis=0),
            holdout=np.sum([self.holdout[part] for part in parts], axis=0),
            sigma_members=self.sigma_members * sqrt(len(parts)),
            sigma_holdout=self.sigma_holdout * sqrt(len(parts)),
        )

    def positives(self, cells: slice) -> Positives:
        """Return the counts of the patients in ``cells``."""
        width = len(self.members[cells])
        return Positives(
            members=float(self.members[cells].sum()),
            controls=float(self.holdout[cells].sum()),
            num_members=self.num_members,
            num_controls=self.num_holdout,
            sigma_members=self.sigma_members * np.sqrt(width),
            sigma_controls=self.sigma_holdout * np.sqrt(width),
            member_share=self.member_share,
        )

    def top(self, share: float) -> Positives:
        """Return the counts of the first cells that hold about a share of all patients.

        How many cells is decided on both groups together, so that exact counts' labels stay
        exchangeable. Of noised counts the groups are weighted such that the estimate of both and
        the test's statistic, members less odds times controls, are uncorrelated.
        """
        odds = self.member_share / (1 - self.member_share)
        wanted = share * (self.num_members + self.num_holdout)
        width = np.arange(1, len(self.members) + 1)
        drawn = wanted * odds / (1 + odds)  # variance of drawing labels, of members
        weight_members = width * odds * self.sigma_holdout**2 + drawn
        weight_controls = width * self.sigma_members**2 + drawn
        both = weight_members * np.cumsum(self.members)
        both = both + weight_controls * np.cumsum(self.holdout)
        both = both * (1 + odds) / (odds * weight_members + weight_controls)
        # Where the share is first reached, or just before: noise may come near it again far later.
        reached = np.flatnonzero(both >= wanted)
        last = int(reached[0]) if len(reached) else len(both) - 1
        if last > 0 and wanted - both[last - 1] < both[last] - wanted:
            last -= 1
        return self.positives(slice(0, last + 1))


@dataclass(frozen=True, kw_only=True)
class Bound:
    """One tolerance of the study, and the upper bound that the audit could show for it."""

    rule: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the bound is within the tolerance; NaN is not."""
        return bool(self.value <= self.limit)


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """What an audit concludes. Rates and intervals are per patient.

    Attributes:
        id: of the audit.
        statistic: that it bounds.
        members, controls: rates, or an AUC and one half.
        interval: a lower and an upper bound of the statistic.
        p_value: one-sided, of members being betrayed.
        p_opposite: of controls being so: never a sign of memorisation, but of a bad split.
        bounds: tolerances, and what could be shown for them.
        limit_of_detection: in copied patients; None of an average, or if all members are too few.
    """

    id: str
    statistic: float
    members: float
    controls: float
    interval: tuple[float, float]
    p_value: float
    p_opposite: float
    bounds: tuple[Bound, ...]
    limit_of_detection: int | None

    @staticmethod
    def of_excess(
        audit: str,
        found: Positives,
        *,
        confidence: float,
        alpha: float,
        bounds: tuple[Bound, ...] = (),
    ) -> "AuditResult":
        """Return what follows where the statistic is how much oftener members are positive.

        Args:
            audit: its id.
            found: who is positive.
            confidence: of the interval's one-sided bounds.
            alpha: level of the test, for the limit of detection at a power of 90 %.
            bounds: tolerances, and what could be shown for them.
        """
        return AuditResult(
            id=audit,
            statistic=found.excess,
            members=found.member_rate,
            controls=found.control_rate,
            interval=excess_bounds(found, confidence=confidence),
            p_value=excess_p_value(found),
            p_opposite=excess_p_value(found.exchanged),
            bounds=bounds,
            limit_of_detection=limit_of_detection(found, alpha=alpha, power=0.9),
        )

    @staticmethod
    def of_residual_risk(
        audit: str, found: Positives, *, rule: str, limit: float, confidence: float, alpha: float
    ) -> "AuditResult":
        """Return what follows where the statistic is the residual risk of Giomi et al. (2023).

        (r_members - r_controls) / (1 - r_controls): of the patients with whom an attack would not
        succeed anyhow, the share with whom it does because they are members.

        Args:
            audit: its id.
            found: with whom it succeeds.
            rule, limit: the tolerance.
            confidence, alpha: as in ``of_excess``.
        """
        rest = max(1 - found.control_rate, 1 / found.num_controls)
        risk = found.excess / rest
        # Nearly all patients succumb anyhow: nothing can be said of the others, and 1 is no bound.
        fewest, most = control_rate_bounds(found, confidence=confidence)
        low, high = excess_bounds(found, confidence=confidence)
        upper = min(1.0, max(high, 0.0) / (1 - most)) if most < 1 else 1.0
        lower = low / (1 - max(fewest, 0.0) if low > 0 else rest)
        return AuditResult(
            id=audit,
            statistic=risk,
            members=found.member_rate,
            controls=found.control_rate,
            interval=(lower, upper),
            p_value=excess_p_value(found),
            p_opposite=excess_p_value(found.exchanged),
            bounds=(Bound(rule=rule, value=upper, limit=limit),),
            limit_of_detection=limit_of_detection(found, alpha=alpha, power=0.9),
        )

    @staticmethod
    def of_auc(
        audit: str, estimate: AucEstimate, *, bounds: tuple[Bound, ...] = ()
    ) -> "AuditResult":
        """Return what follows where the statistic is an AUC: .5 is guessing.

        Args:
            audit: its id.
            estimate: of the AUC.
            bounds: tolerances, and what could be shown for them.
        """
        return AuditResult(
            id=audit,
            statistic=estimate.auc,
            members=estimate.auc,
            controls=0.5,
            interval=(estimate.lower, estimate.upper),
            p_value=estimate.p_value,
            p_opposite=estimate.p_opposite,
            bounds=bounds,
            limit_of_detection=None,
        )


class Audit(Protocol):
    """One attack of the pre-registered family."""

    id: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    criterion: ClassVar[Criterion]
    statistic: ClassVar[type[Statistic]]

    @staticmethod
    def conclude(
        counts: AuditCounts, policy: ReleasePolicy, *, confidence: float, alpha: float
    ) -> AuditResult:
        """Return the conclusion from summed counts.

        Args:
            counts: of ``statistic``.
            policy: the study's tolerances.
            confidence: of one-sided bounds.
            alpha: level of one test, for the limit of detection.
        """
