"""The family as a whole: counting at a site, summing, and concluding with Holm's correction."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits import AUDITS
from pratique_privacy.audits.base import AuditCounts, AuditResult, IntArray, Statistic
from pratique_privacy.audits.context import Cuts
from pratique_privacy.audits.scores import PatientScores
from pratique_privacy.intervals import holm

FAMILY_ALPHA = 0.05
BOUND_CONFIDENCE = 0.95

STATISTICS: dict[str, type[Statistic]] = {
    audit.statistic.name: audit.statistic for audit in AUDITS.values()
}

NUM_CELLS = sum(statistic.num_cells for statistic in STATISTICS.values())
"""Counts of one role in a site's answer."""

CellCounts = Mapping[str, NDArray[Any]]
"""Statistic → counts a cell."""


@dataclass(frozen=True, kw_only=True)
class ConcludedAudit:
    """A result with its p-value adjusted for the family."""

    result: AuditResult
    p_adjusted: float


def count_cells(cuts: Cuts, scores: PatientScores) -> dict[str, IntArray]:
    """Return exact counts of every statistic: as sensitive as the records."""
    return {
        name: np.bincount(statistic.cells(cuts, scores), minlength=statistic.num_cells)
        for name, statistic in STATISTICS.items()
    }


def flatten(counts: CellCounts) -> IntArray:
    """Return all counts as one vector, in the order of ``STATISTICS``."""
    return np.concatenate([counts[name] for name in STATISTICS])


def unflatten(vector: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Undo ``flatten``.

    Raises:
        ValueError: the vector's length does not fit.
    """
    sizes = [statistic.num_cells for statistic in STATISTICS.values()]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"expected {sum(sizes)} counts")
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return dict(zip(STATISTICS, parts, strict=True))


def estimated_size(counts: CellCounts) -> float:
    """Return the number of patients that counts describe.

    Every statistic's cells add up to it; noised totals are averaged with weights inverse to
    their numbers of cells, that is to the variance of their noise.
    """
    totals = np.array([float(counts[name].sum()) for name in STATISTICS])
    cells = [statistic.num_cells for statistic in STATISTICS.values()]
    weights = lcm(*cells) / np.array(cells)  # whole, so that equal whole totals come out whole
    return float((totals * weights).sum() / weights.sum())


def bound_confidence(attempt: int) -> float:
    """Return the confidence of one-sided bounds on try ``attempt``, from 1: 1 - .05 / k."""
    return 1 - (1 - BOUND_CONFIDENCE) / attempt


def conclude(
    members: CellCounts,
    holdout: CellCounts,
    policy: ReleasePolicy,
    *,
    sigma_members: float,
    sigma_holdout: float,
    member_share: float,
    attempt: int = 1,
) -> dict[str, ConcludedAudit]:
    """Conclude every audit of the family.

    Args:
        members, holdout: counts, summed over sites.
        policy: the study's tolerances.
        sigma_members, sigma_holdout: deviation of the summed noise a cell; 0 is exact.
        member_share: probability of a patient to be a member.
        attempt: on try k bounds rise to confidence 1 - .05 / k; tests stay at 5 %.

    Raises:
        ValueError: a group is too small for any conclusion.
    """
    num_members, num_holdout = estimated_size(members), estimated_size(holdout)
    if min(num_members, num_holdout) < 1:
        raise ValueError("members or hold-out are too few for any conclusion")
    confidence = bound_confidence(attempt)
    results = {}
    for name, audit in AUDITS.items():
        counts = AuditCounts(
            members=members[audit.statistic.name],
            holdout=holdout[audit.statistic.name],
            num_members=num_members,
            num_holdout=num_holdout,
            sigma_members=sigma_members,
            sigma_holdout=sigma_holdout,
            member_share=member_share,
        )
        results[name] = audit.conclude(
            counts, policy, confidence=confidence, alpha=FAMILY_ALPHA / len(AUDITS)
        )
    adjusted = holm({name: result.p_value for name, result in results.items()})
    return {
        name: ConcludedAudit(result=result, p_adjusted=adjusted[name])
        for name, result in results.items()
    }
