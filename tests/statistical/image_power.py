"""Power and false alarms of the audit on images, by simulation.

    python -m tests.statistical.image_power REPEATS

prints the tables of ``docs/audit-power.md``. Patients are phantoms of a stand-in hospital. Each
time 5,000 of them are drawn, 1,000 of them held out; a candidate has as many images as the members
have: of other patients or of the prior, some replaced by copies of members' images.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pratique_common.phantoms.mri_signals import CONTRASTS
from pratique_common.study import ReleasePolicy
from pratique_privacy.audits import AUDITS
from pratique_privacy.audits.context import AuditContext
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
from pratique_privacy.conclusion import audit_sigmas
from tests.conftest import small_study
from tests.phantom_images import (
    CONTRAST,
    SCHEMA,
    Columns,
    Images,
    altered,
    children,
    hospital,
    of_prior,
)

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

NUM_PATIENTS, NUM_HELD_OUT = 5_000, 1_000
NUM_OTHERS = 9_000
NUM_HOSPITALS = 4
FAMILY = "family"

UNALTERED: dict[str, Any] = {"mirror": False, "shift_px": 0, "noise": (0, 0), "gamma": (1, 1)}
"""Half of all grey values of a copy change by rounding alone: it is still the same image."""


@dataclass(frozen=True)
class Candidate:
    """How a candidate is made.

    Attributes:
        source: whose images it has where it has no copies.
        copied: members' images in it.
        times: how often each of them, every time altered anew.
        twins: pairs of honest images that are equal: a generator's slips, or planted.
        alterations: see ``altered``.
        contrasts: that images have; of copies the first ``contrasts_copied`` show the member, and
            the others are another patient's.
    """

    source: Literal["others", "prior", "children"] = "others"
    copied: int = 0
    times: int = 1
    twins: int = 0
    alterations: dict[str, Any] = field(default_factory=dict)
    contrasts: tuple[str, ...] = (CONTRAST,)
    contrasts_copied: int = 1


_FOUR: dict[str, Any] = {"contrasts": CONTRASTS}

CANDIDATES: dict[str, Candidate] = {
    "honest (other patients' images)": Candidate(),
    "honest (the prior's phantoms)": Candidate("prior"),
    "honest (children of 600 phantoms, as of sim_pe)": Candidate("children"),
    "80 images copied": Candidate(copied=80, alterations=UNALTERED),
    "80 mirrored": Candidate(copied=80, alterations=UNALTERED | {"mirror": True}),
    "80 moved by up to 3 pixels": Candidate(copied=80, alterations=UNALTERED | {"shift_px": 3}),
    "80 with noise": Candidate(copied=80, alterations=UNALTERED | {"noise": (0.03, 0.05)}),
    "80 with all alterations": Candidate(copied=80),
    "80 with all, among the prior's phantoms": Candidate("prior", copied=80),
    "80 with all, among children of 600 phantoms": Candidate("children", copied=80),
    "80 with all, among 50 pairs of twins": Candidate(copied=80, twins=50),
    "80 with all, five times each": Candidate(copied=80, times=5),
    "40 with all": Candidate(copied=40),
    "400 with all": Candidate(copied=400),
    "honest, four contrasts": Candidate(**_FOUR),
    "80 with all, four contrasts": Candidate(copied=80, contrasts_copied=4, **_FOUR),
    "80 with all, two contrasts of four": Candidate(copied=80, contrasts_copied=2, **_FOUR),
    "80 with all, one contrast of four": Candidate(copied=80, **_FOUR),
    "80 of which one contrast of four is copied": Candidate(
        copied=80, alterations=UNALTERED, **_FOUR
    ),
}


class Population:
    """Phantom patients, and images of the prior, as the audit sees them."""

    def __init__(self, contrasts: tuple[str, ...] = (CONTRAST,), *, seed: int = 2026) -> None:
        self.images = hospital(NUM_PATIENTS + NUM_OTHERS, seed=seed, contrasts=contrasts)
        self.rows = self.images.columns()
        self._seed = seed

    @cached_property
    def prior(self) -> Columns:
        """Return rows of one contrast as no patient's record could have made them."""
        return of_prior(NUM_OTHERS, seed=self._seed + 1).columns()

    @cached_property
    def first_row(self) -> IntArray:
        """Return where each patient's rows begin, and the end."""
        return np.searchsorted(self.images.owner, np.arange(NUM_PATIENTS + NUM_OTHERS + 1))

    @cached_property
    def children(self) -> Columns:
        """Return rows that a generator of few phantoms gives: many lie together."""
        return children(NUM_OTHERS, seed=2026)

    def rows_of(self, patients: IntArray) -> IntArray:
        """Return positions of all rows of some patients."""
        return np.flatnonzero(np.isin(self.images.owner, patients))

    def row_each(self, patients: IntArray, rng: np.random.Generator) -> IntArray:
        """Return the position of any row of each patient."""
        first, end = self.first_row[patients], self.first_row[patients + 1]
        return np.asarray(rng.integers(first, end), np.int64)


@dataclass(frozen=True)
class Counts:
    """Cell counts of one audit."""

    members: IntArray
    holdout: IntArray

    def conclude(
        self, sigma: tuple[float, float] = (0.0, 0.0), rng: np.random.Generator | None = None
    ) -> dict[str, ConcludedAudit]:
        """Conclude; ``sigma`` of members and hold-out, drawn by ``rng``."""
        groups = [self.members, self.holdout]
        if rng is not None:
            groups = [
                counts + np.rint(s * rng.standard_normal(NUM_CELLS))
                for counts, s in zip(groups, sigma, strict=True)
            ]
        return conclude(
            *map(unflatten, groups),
            ReleasePolicy(),
            sigma_members=sigma[0],
            sigma_holdout=sigma[1],
            member_share=1 - NUM_HELD_OUT / NUM_PATIENTS,
        )


def candidate_of(
    population: Population, how: Candidate, members: IntArray, others: IntArray, num_rows: int,
    rng: np.random.Generator,
) -> Columns:  # fmt: skip
    """Return the columns of a candidate."""
    if how.source == "others":
        honest = taken(population.rows, population.row_each(others[:num_rows], rng))
    else:
        source = population.prior if how.source == "prior" else population.children
        honest = taken(source, rng.permutation(NUM_OTHERS)[:num_rows])
    if how.twins:
        for values in honest.values():
            values[-how.twins :] = values[-2 * how.twins : -how.twins]
    if not how.copied:
        return honest
    chosen = population.row_each(rng.choice(members, how.copied, replace=False), rng)
    source = population.images.take(np.repeat(chosen, how.times))
    count = len(source.kind)
    pixels = altered(source.pixels, rng, **how.alterations)
    if how.contrasts_copied < len(how.contrasts):
        other = population.images.pixels[population.row_each(others[-count:], rng)]
        pixels[..., how.contrasts_copied :] = other[..., how.contrasts_copied :]
    copies = Images(pixels, source.kind, source.place, source.owner).columns()
    return {name: np.concatenate([copies[name], v[count:]]) for name, v in honest.items()}


def taken(columns: Columns, rows: IntArray) -> Columns:
    """Return some rows."""
    return {name: values[rows] for name, values in columns.items()}


def counts_of(
    population: Population, how: Candidate, *, seed: int, num_rows: int | None = None
) -> Counts:
    """Draw patients, make a candidate, and count."""
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(NUM_PATIENTS + NUM_OTHERS)
    patients, others = drawn[:NUM_PATIENTS], drawn[NUM_PATIENTS:]
    held_out, members = patients[:NUM_HELD_OUT], patients[NUM_HELD_OUT:]
    size = num_rows or len(population.rows_of(members))
    table = candidate_of(population, how, members, others, min(size, NUM_OTHERS), rng)
    context = AuditContext.build(SCHEMA, table)
    rows = population.rows_of(patients)
    columns = taken(population.rows, rows)
    owner = population.images.owner[rows].astype(str)
    scores = PatientScores.of(context, columns, owner)
    is_member = ~np.isin(np.unique(owner), held_out.astype(str))
    return Counts(
        *(
            flatten(count_cells(context.cuts, scores.of_group(group)))
            for group in (is_member, ~is_member)
        )
    )


def repeated(
    population: Population, how: Candidate, *, repeats: int, num_rows: int | None = None
) -> Iterator[Counts]:
    """Yield counts of candidates made alike."""
    for seed in range(repeats):
        yield counts_of(population, how, seed=seed, num_rows=num_rows)


def rejections(found: list[Counts], sigma: tuple[float, float] = (0.0, 0.0)) -> dict[str, float]:
    """Return how often each test alone, and the family after Holm, rejects at 5 %."""
    rejected = dict.fromkeys([*AUDITS, FAMILY], 0)
    for seed, counts in enumerate(found):
        concluded = counts.conclude(sigma, np.random.default_rng(seed) if any(sigma) else None)
        for name, audit in concluded.items():
            rejected[name] += audit.result.p_value < FAMILY_ALPHA
        rejected[FAMILY] += any(a.p_adjusted < FAMILY_ALPHA for a in concluded.values())
    return {name: count / len(found) for name, count in rejected.items()}


def default_noise() -> tuple[float, float]:
    """Return the noise a cell of members and hold-out: four hospitals, default budgets."""
    members, holdout, *_ = audit_sigmas(small_study(), NUM_HOSPITALS, NUM_HOSPITALS)
    return members, holdout


def main() -> None:
    """Print both tables: exact counts, and counts with the noise of default budgets."""
    repeats = int(sys.argv[1])
    population_of = cache(Population)
    noised = {}
    print(f"| Phantoms | {' | '.join([*AUDITS, FAMILY])} |")  # noqa: T201
    print("|---|" + "---|" * (len(AUDITS) + 1))  # noqa: T201
    for name, how in CANDIDATES.items():
        found = list(repeated(population_of(how.contrasts), how, repeats=repeats))
        noised[name] = rejections(found, default_noise())
        rates = " | ".join(f"{rate:.2f}" for rate in rejections(found).values())
        print(f"| {name} | {rates} |", flush=True)  # noqa: T201
    print()  # noqa: T201
    for name, rejected in noised.items():
        rates = " | ".join(f"{rate:.2f}" for rate in rejected.values())
        print(f"| {name} | {rates} |")  # noqa: T201


if __name__ == "__main__":
    main()
