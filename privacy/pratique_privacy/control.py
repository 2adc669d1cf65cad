"""The planted-leak control: would this audit have seen a leak? Asked before every decision.

Phantom patients, as many as took part, are drawn from a smooth stand-in for the candidate; rows of
phantom members take the places of some of the candidate's own. The whole battery, with as much
noise as the sites' counts had, must find them. If not, the audit of the real patients says nothing:
it is void. No real patient is asked for anything.

All draws follow from the candidate, so that every site finds what the coordinator found.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pratique_common.schema import TableSchema
from pratique_common.study import ReleasePolicy
from pratique_privacy.audits import AUDITS
from pratique_privacy.audits.context import AuditContext, Columns, seed_of_content
from pratique_privacy.audits.family import (
    FAMILY_ALPHA,
    NUM_CELLS,
    conclude,
    count_cells,
    flatten,
    unflatten,
)
from pratique_privacy.audits.scores import PatientScores
from pratique_privacy.smooth import SmoothTable

IntArray = NDArray[np.int64]

PLANTED_SHARE = 0.05
"""Of the table's rows, as in the power table of ``docs/audit-power.md``; but of a table with few
rows at least twice as many as the study tolerates, since a tolerated leak must pass."""

NOISE_DRAWS, LEAST_FOUND = 10, 9
"""One test must find the leak in nine of ten draws of the noise: an audit that may miss it by bad
luck says too little. Bounds do not count: noise alone takes them beyond a tolerance."""

_MOST_SCORED_ROWS = 20_000
"""Of phantoms without a planted row, which are alike: more would cost time and tell little."""


@dataclass(frozen=True, kw_only=True)
class PlantedLeak:
    """What became of the control.

    Attributes:
        rows: planted.
        members, holdout: phantom patients.
        found_by: audits whose test found it, by id, in the order of the family.
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
    """
    members, holdout = round(num_members), round(num_holdout)
    if min(members, holdout) < 1:
        return None
    seed = np.random.SeedSequence(seed_of_content(candidate)[0])
    # A stream each: what differs in one by a last digit changes nothing in the others.
    fit, plant, others, noise = map(np.random.default_rng, seed.spawn(4))
    smooth = SmoothTable(schema, candidate, fit)
    num_rows = len(next(iter(candidate.values())))
    tolerated = min(policy.near_match_excess * members, policy.near_match_patients)
    planted = min(num_rows, members, round(max(PLANTED_SHARE * num_rows, 2 * tolerated)))
    phantoms = _Phantoms(schema, smooth)
    leaked = phantoms.rows(planted, plant)
    # The candidate's own rows stand around them: what would hide a leak in it hides this one.
    order = seed_of_content(candidate)[1][plant.permutation(num_rows)]
    table = {name: values[order] for name, values in candidate.items()}
    for name, values in table.items():
        values[:planted] = leaked[name][:: schema.max_rows_per_patient]
    try:
        context = AuditContext.build(schema, table)
        exact_members = phantoms.counts(context, leaked)
        exact_members = exact_members + phantoms.alike(context, members - planted, others)
        exact_holdout = phantoms.alike(context, holdout, others)
        found: Counter[str] = Counter()
        for _ in range(NOISE_DRAWS):
            concluded = conclude(
                unflatten(exact_members + sigma_members * noise.standard_normal(NUM_CELLS)),
                unflatten(exact_holdout + sigma_holdout * noise.standard_normal(NUM_CELLS)),
                policy,
                sigma_members=sigma_members,
                sigma_holdout=sigma_holdout,
                member_share=members / (members + holdout),
            )
            found.update(n for n, audit in concluded.items() if audit.p_adjusted < FAMILY_ALPHA)
    except ValueError:
        return None
    return PlantedLeak(
        rows=planted,
        members=members,
        holdout=holdout,
        found_by=tuple(name for name in AUDITS if found[name] >= LEAST_FOUND),
    )


@dataclass(frozen=True)
class _Phantoms:
    """Patients that nobody is: ``max_rows_per_patient`` rows each, one patient after the other."""

    schema: TableSchema
    smooth: SmoothTable

    def rows(self, num_patients: int, rng: np.random.Generator) -> Columns:
        """Draw patients."""
        return self.smooth.draw(num_patients * self.schema.max_rows_per_patient, rng)

    def counts(self, context: AuditContext, rows: Columns) -> IntArray:
        """Return their counts."""
        num_rows = len(next(iter(rows.values())))
        owners = np.arange(num_rows) // self.schema.max_rows_per_patient
        return flatten(count_cells(context.cuts, PatientScores.of(context, rows, owners)))

    def alike(self, context: AuditContext, num_patients: int, rng: np.random.Generator) -> IntArray:
        """Return counts of patients without a planted row: alike, so some stand for many."""
        some = min(num_patients, max(1, _MOST_SCORED_ROWS // self.schema.max_rows_per_patient))
        if some < 1:
            return np.zeros(NUM_CELLS, np.int64)
        found = unflatten(self.counts(context, self.rows(some, rng)))
        if some < num_patients:
            found = {
                name: rng.multinomial(num_patients, counts / some) for name, counts in found.items()
            }
        return flatten(found)
