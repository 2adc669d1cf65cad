"""What an audit is made of.

    public context   from the candidate and the schema alone (``AuditContext``)
    attack           at a site: a public function of each patient's own records (``PatientScores``),
                     counted into cells (``Statistic``), one patient in one cell
    conclude         at the coordinator, and again at every site, from the summed counts

Everything is scored per patient: the patient is the unit of privacy, and the labels of patients are
what the null hypothesis exchanges.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pratique_common.schema import TableSchema
from pratique_common.study import ReleasePolicy
from pratique_privacy.agreement import CopyLikelihood
from pratique_privacy.intervals import (
    Positives,
    excess_p_value,
    excess_upper_bound,
    limit_of_detection,
)
from pratique_privacy.neighbours import EncodedRows, MixedEncoder

Columns = Mapping[str, NDArray[Any]]
IntArray = NDArray[np.int64]
Float64Array = NDArray[np.float64]

NEAR_QUANTILE = 0.01
"""Near is closer than 99 % of the candidate's rows are to each other (leave one out)."""

_CUT_QUANTILES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
_COPY_QUANTILES = (0.5, 0.9)
_COPY_STEPS = (*np.arange(0, 8.1, 0.5), 9, 10, 12, 14)
"""Nats above the highest score of the candidate's own rows. A value that one row alone has cannot
agree with another row, but with a patient's: 30 to 40 % of honest patients lie above."""

_MAX_CONTEXT_ROWS = 2_000
_LEAST_DISTANCES = 20


def _order_by_content(candidate: Columns) -> IntArray:
    """Return an order of rows that nobody can choose without changing the rows themselves."""
    texts = [candidate[name].astype(str) for name in sorted(candidate)]
    in_order = np.lexsort(texts)
    sha = hashlib.sha256()
    for cells in texts:
        sha.update("\0".join(cells[in_order]).encode())
    rng = np.random.default_rng(int.from_bytes(sha.digest()[:8]))
    return np.asarray(in_order[rng.permutation(len(in_order))], np.int64)


@dataclass(frozen=True)
class AuditContext:
    """What everybody can compute from the candidate: no record of a patient is in it."""

    encoder: MixedEncoder
    candidate: EncodedRows
    near_radius: float
    cuts: Float64Array
    copies: CopyLikelihood
    copy_cuts: Float64Array
    """Ascending, from the candidate's own rows, each scored without itself."""

    @staticmethod
    def build(schema: TableSchema, candidate: Columns) -> "AuditContext":
        """Fit the distance, the near radius and the public cuts on the candidate.

        Raises:
            ValueError: too few rows that differ.
        """
        encoder = MixedEncoder(schema, candidate)
        rows = encoder.encode(candidate)
        if rows.num_rows < _LEAST_DISTANCES:
            raise ValueError("a candidate needs more rows")
        some = min(_MAX_CONTEXT_ROWS, rows.num_rows)
        order = _order_by_content(candidate)
        ordered = {name: values[order] for name, values in candidate.items()}
        subset = {name: values[:some] for name, values in ordered.items()}
        apart = encoder.nearest(
            encoder.encode(subset), encoder.encode(ordered), leave_out_self=True
        ).first
        # A row with a twin says nothing of what near means, and a few planted twins would make
        # the near radius zero and switch NEAR off.
        apart = apart[apart > 0]
        if len(apart) < _LEAST_DISTANCES:
            raise ValueError("a candidate needs rows that differ")
        copies = CopyLikelihood(schema, ordered)
        own = copies.scores(subset, own=0)
        return AuditContext(
            encoder=encoder,
            candidate=rows,
            near_radius=float(np.quantile(apart, NEAR_QUANTILE)),
            cuts=np.quantile(apart, _CUT_QUANTILES),
            copies=copies,
            copy_cuts=np.concatenate(
                [np.quantile(own, _COPY_QUANTILES), own.max() + np.array(_COPY_STEPS)]
            ),
        )


@dataclass(frozen=True)
class PatientScores:
    """Scores of P patients: as sensitive as the records.

    Attributes:
        distance: to the nearest candidate row, the least over a patient's rows.
        ratio: of the nearest to the second nearest distance, the least over a patient's rows.
        linkable: whether one candidate row is nearest on both halves of the columns, for any row.
        copied: likelihood ratio, in nats, that a candidate row was made of one of the patient's.
    """

    distance: Float64Array
    ratio: Float64Array
    linkable: NDArray[np.bool_]
    copied: Float64Array

    @staticmethod
    def of(context: AuditContext, columns: Columns, patients: NDArray[Any]) -> "PatientScores":
        """Score patients; ``patients`` names whose each row is; order follows ``np.unique``."""
        found = context.encoder.nearest(context.encoder.encode(columns), context.candidate)
        # A tie at zero has ratio 1: two identical candidate rows are no sign of a copy.
        ratio = np.where(found.second > 0, found.first / np.maximum(found.second, 1e-12), 1.0)
        _, owner = np.unique(patients.astype(str), return_inverse=True)
        order = np.argsort(owner, kind="stable")
        starts = np.flatnonzero(np.diff(owner[order], prepend=-1))
        return PatientScores(
            distance=np.minimum.reduceat(found.first[order], starts),
            ratio=np.minimum.reduceat(ratio[order], starts),
            linkable=np.logical_or.reduceat(found.linkable[order], starts),
            copied=np.maximum.reduceat(context.copies.scores(columns)[order], starts),
        )

    def of_group(self, chosen: NDArray[np.bool_]) -> "PatientScores":
        """Return the scores of some patients, ``chosen`` of shape (P,)."""
        return PatientScores(
            self.distance[chosen], self.ratio[chosen], self.linkable[chosen], self.copied[chosen]
        )


class Statistic(Protocol):
    """Puts each patient into one cell: adding or removing a patient moves one count by 1."""

    name: ClassVar[str]
    num_cells: ClassVar[int]

    @staticmethod
    def cells(context: AuditContext, scores: PatientScores) -> IntArray:
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
        return self.positives(slice(0, 1 + int(np.abs(both - wanted).argmin())))


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
    """What an audit concludes. Rates and intervals are per patient."""

    id: str
    statistic: float
    members: float
    controls: float
    interval: tuple[float, float]
    p_value: float
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
        upper = excess_upper_bound(found, confidence=confidence)
        return AuditResult(
            id=audit,
            statistic=found.excess,
            members=found.member_rate,
            controls=found.control_rate,
            interval=(2 * found.excess - upper, upper),
            p_value=excess_p_value(found),
            bounds=bounds,
            limit_of_detection=limit_of_detection(found, alpha=alpha, power=0.9),
        )


class Audit(Protocol):
    """One attack of the pre-registered family."""

    id: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
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
