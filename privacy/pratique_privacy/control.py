"""The planted-leak control: would this audit have seen a leak? Asked before every decision.

Phantom patients, as many as took part, are drawn from a smooth stand-in for the candidate, and so
is a table of the candidate's size; rows of phantom members are planted in it. The whole battery,
with as much noise as the sites' counts had, must not pass it. If it does, the audit of the real
patients says nothing: it is void. No real patient is asked for anything.

All draws follow from the candidate, so that every site finds what the coordinator found.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.schema import TableSchema
from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.context import AuditContext, Columns, seed_of_content
from pratique_privacy.audits.family import (
    FAMILY_ALPHA,
    NUM_CELLS,
    ConcludedAudit,
    conclude,
    count_cells,
    flatten,
    unflatten,
)
from pratique_privacy.audits.scores import PatientScores
from pratique_privacy.smooth import SmoothTable

PLANTED_SHARE = 0.05
"""Of the table's rows, as in the power table of ``docs/audit-power.md``; but of a table with few
rows at least twice as many as the study tolerates, since a tolerated leak must pass."""


@dataclass(frozen=True, kw_only=True)
class PlantedLeak:
    """What became of the control.

    Attributes:
        rows: planted.
        members, holdout: phantom patients.
        found_by: audits whose test or bound did not pass it, by id, in the order of the family.
    """

    rows: int
    members: int
    holdout: int
    found_by: tuple[str, ...]

    @property
    def found(self) -> bool:
        """Whether the audit of real patients could have seen such a leak."""
        return bool(self.found_by)


def planted_leak(
    schema: TableSchema,
    candidate: Columns,
    policy: ReleasePolicy,
    *,
    num_members: float,
    num_holdout: float,
    sigma_members: float,
    sigma_holdout: float,
    attempt: int = 1,
) -> PlantedLeak | None:
    """Run the control; None if groups are too small for any conclusion.

    Args:
        schema: of the study. A phantom patient has ``max_rows_per_patient`` rows, which hides its
            planted row best.
        candidate: the table that the decision is about.
        policy: the study's tolerances.
        num_members, num_holdout: as the sites' counts estimate them.
        sigma_members, sigma_holdout: deviation of the noise in a count; 0 is exact. The noise here
            protects nobody, so it is an ordinary normal draw.
        attempt: as in ``conclude``.
    """
    sizes = {"members": round(num_members), "holdout": round(num_holdout)}
    if min(sizes.values()) < 1:
        return None
    rng = np.random.default_rng(seed_of_content(candidate)[0])
    smooth = SmoothTable(schema, candidate, rng)
    phantoms = {role: _phantoms(smooth, schema, size, rng) for role, size in sizes.items()}
    num_rows = len(next(iter(candidate.values())))
    tolerated = min(policy.near_match_excess * sizes["members"], policy.near_match_patients)
    planted = min(num_rows, round(max(PLANTED_SHARE * num_rows, 2 * tolerated)))
    table = smooth.draw(num_rows, rng)
    members, owners = phantoms["members"]
    leaked = rng.choice(len(owners), planted)
    for name, values in table.items():
        values[:planted] = members[name][leaked]
    try:
        context = AuditContext.build(schema, table)
        counts = {}
        for role, sigma in (("members", sigma_members), ("holdout", sigma_holdout)):
            scores = PatientScores.of(context, *phantoms[role])
            exact = flatten(count_cells(context, scores))
            noisy = exact + rng.normal(0, sigma, NUM_CELLS) if sigma else exact
            counts[role] = unflatten(noisy)
        concluded = conclude(
            counts["members"],
            counts["holdout"],
            policy,
            sigma_members=sigma_members,
            sigma_holdout=sigma_holdout,
            member_share=sizes["members"] / sum(sizes.values()),
            attempt=attempt,
        )
    except ValueError:
        return None
    return PlantedLeak(
        rows=planted,
        members=sizes["members"],
        holdout=sizes["holdout"],
        found_by=tuple(name for name, audit in concluded.items() if not _passes(audit)),
    )


def _passes(audit: ConcludedAudit) -> bool:
    bounds = all(bound.passed for bound in audit.result.bounds)
    return bounds and audit.p_adjusted >= FAMILY_ALPHA


def _phantoms(
    smooth: SmoothTable, schema: TableSchema, num_patients: int, rng: np.random.Generator
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Return rows, and whose each is."""
    owners = np.repeat(np.arange(num_patients), schema.max_rows_per_patient)
    return smooth.draw(len(owners), rng), owners
