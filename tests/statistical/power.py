"""Power and false alarms of the audit on real patients, by simulation.

    python -m tests.statistical.power DATA_FOLDER REPEATS

prints the table of ``docs/audit-power.md``. Each time 5,000 patients are drawn, 1,000 of them held
out; a candidate is made of other patients' rows, or leaks members in a known way; and the exact
battery of ``pratique audit`` is run.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from pratique_common.columns import CategoricalColumn
from pratique_common.schema import TableSchema
from pratique_common.study import ReleasePolicy, load_study
from pratique_common.tables import Table, cap_rows, check_table
from pratique_privacy.audits import AUDITS
from pratique_privacy.audits.context import AuditContext
from pratique_privacy.audits.family import FAMILY_ALPHA, conclude, count_cells
from pratique_privacy.audits.scores import PatientScores
from pratique_privacy.control import PlantedLeak
from pratique_privacy.gate import decide
from pratique_privacy.local_audits.base import RealPatients
from pratique_privacy.local_audits.tail import HighestScores
from pratique_privacy.neighbours import MixedEncoder
from tests.studies import covid_mexico, diabetes130

Columns = dict[str, NDArray[Any]]
IntArray = NDArray[np.int64]

NUM_PATIENTS, NUM_HELD_OUT, NUM_OTHERS = 5_000, 1_000, 12_000
FAMILY, GRANTED = "family", "granted"
COLUMNS = [*AUDITS, HighestScores.id, FAMILY, GRANTED]
_FOUND = PlantedLeak(rows=1, members=1, holdout=1, found_by=("EXACT",))


@dataclass(frozen=True)
class Population:
    """Real patients: rows in the study's domains, and whose each is, from 0."""

    schema: TableSchema
    columns: Columns
    owner: IntArray

    @classmethod
    def of(cls, table: Table, schema: TableSchema) -> "Population":
        """Number the patients of a table."""
        _, owner = np.unique(table.patients.astype(str), return_inverse=True)
        return cls(schema, table.columns, owner.astype(np.int64))

    def rows_of(self, patients: IntArray) -> IntArray:
        """Return positions of all rows of some patients."""
        return np.flatnonzero(np.isin(self.owner, patients))


def diabetes(folder: Path) -> Population:
    """Return patients of Diabetes-130 with up to five encounters each."""
    study = load_study(Path(diabetes130.__file__).with_name("diabetes-130.toml"))
    frame = diabetes130.load(folder / "diabetes130")
    frame = frame[frame.groupby("patient").cumcount() < 5]
    schema = study.data.model_copy(update={"max_rows_per_patient": 5})
    return Population.of(_checked(frame, schema, patient_id="patient"), schema)


def covid(folder: Path) -> Population:
    """Return COVID-19 cases of ten Mexican states, a row a patient."""
    study = load_study(Path(covid_mexico.__file__).with_name("covid-mexico.toml"))
    frame = covid_mexico.load(folder / "covid_mexico").sample(60_000, random_state=0)
    return Population.of(_checked(frame, study.data, patient_id=None), study.data)


def _checked(frame: pd.DataFrame, schema: TableSchema, *, patient_id: str | None) -> Table:
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    return cap_rows(check_table(arrow, schema, source="x", patient_id=patient_id), schema)


POPULATIONS: dict[str, Callable[[Path], Population]] = {
    "Diabetes-130": diabetes,
    "COVID Mexico": covid,
}


def _take(columns: Columns, rows: IntArray) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def _redraw(copies: Columns, source: Columns, share: float, rng: np.random.Generator) -> Columns:
    """Draw each cell anew from its column with a probability."""
    result = {}
    for name, values in copies.items():
        drawn = rng.choice(source[name], len(values))
        result[name] = np.where(rng.random(len(values)) < share, drawn, values)
    return result


def honest(training: Columns, others: Columns, schema: TableSchema, rng: Any) -> Columns:
    """Other patients' rows."""
    del schema, training, rng
    return others


def copula(training: Columns, others: Columns, schema: TableSchema, rng: Any) -> Columns:
    """A Gaussian copula of the members' ranks."""
    del others
    size, scores, codes = len(next(iter(training.values()))), [], []
    for column in schema.columns:
        values = training[column.name]
        if isinstance(column, CategoricalColumn):
            place = {level: float(k) for k, level in enumerate([*column.levels, None])}
            values = np.array([place[value] for value in values.tolist()])
        code = np.where(np.isnan(values), -np.inf, values)
        codes.append(np.argsort(code, kind="stable"))
        ranks = rankdata(np.argsort(np.lexsort((rng.random(size), code))) + 1)
        scores.append(ndtri((ranks - 0.5) / size))
    values_, vectors = np.linalg.eigh(np.corrcoef(scores))
    drawn = rng.normal(size=(size, len(codes))) @ (vectors * np.sqrt(values_.clip(1e-6))).T
    places = (ndtr(drawn / drawn.std(0)) * size).astype(int).clip(0, size - 1)
    return {
        name: training[name][order[places[:, d]]]
        for d, (name, order) in enumerate(zip(schema.names, codes, strict=True))
    }


def leak(
    training: Columns,
    others: Columns,
    schema: TableSchema,
    rng: Any,
    *,
    share: float,
    redrawn: float,
) -> Columns:
    """A share of rows copied, each cell drawn anew with a probability."""
    del schema
    size = len(next(iter(training.values())))
    count = round(share * size)
    chosen = _take(training, rng.choice(size, count, replace=False))
    copies = _redraw(chosen, training, redrawn, rng)
    return {n: np.concatenate([copies[n], values[count:]]) for n, values in others.items()}


def isolated(training: Columns, others: Columns, schema: TableSchema, rng: Any) -> Columns:
    """The 1 % most isolated rows copied."""
    del rng
    encoder = MixedEncoder(schema, training)
    rows = encoder.encode(training)
    apart = encoder.nearest(rows, rows, leave_out_self=True).first
    most = np.argsort(-apart)[: round(0.01 * len(apart))]
    return {n: np.concatenate([training[n][most], v[len(most) :]]) for n, v in others.items()}


def smote(training: Columns, others: Columns, schema: TableSchema, rng: Any) -> Columns:
    """Every row a mix of a member's and its neighbour's."""
    del others
    encoder = MixedEncoder(schema, training)
    rows = encoder.encode(training)
    neighbour = encoder.nearest(rows, rows, leave_out_self=True).nearest
    mixed = {}
    for name, values in training.items():
        first = rng.random(len(values)) < 0.5
        mixed[name] = np.where(first, values, values[neighbour])
    return mixed


CANDIDATES: dict[str, Callable[..., Columns]] = {
    "honest (other patients' rows)": honest,
    "honest (copula on members)": copula,
    "1 % rows copied": partial(leak, share=0.01, redrawn=0.0),
    "1 % copied, 10 % of cells redrawn": partial(leak, share=0.01, redrawn=0.1),
    "5 % copied, 10 % of cells": partial(leak, share=0.05, redrawn=0.1),
    "5 % copied, 30 % of cells": partial(leak, share=0.05, redrawn=0.3),
    "5 % copied, 50 % of cells": partial(leak, share=0.05, redrawn=0.5),
    "20 % copied, 30 % of cells": partial(leak, share=0.2, redrawn=0.3),
    "1 % = the most isolated rows": isolated,
    "SMOTE of members": smote,
}


def rejections(population: Population, candidate: str, *, repeats: int) -> dict[str, float]:
    """Return how often each test alone, and the family after Holm, rejects at 5 %.

    And how often the whole gate would grant: tolerances are a study's defaults, and the control
    is taken to be met.
    """
    rejected = dict.fromkeys(COLUMNS, 0)
    everybody = np.arange(int(population.owner.max()) + 1)
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        drawn = rng.choice(everybody, NUM_PATIENTS + NUM_OTHERS, replace=False)
        patients, others = drawn[:NUM_PATIENTS], drawn[NUM_PATIENTS:]
        held_out = patients[:NUM_HELD_OUT]
        rows = population.rows_of(patients)
        is_training = ~np.isin(population.owner[rows], held_out)
        training = _take(population.columns, rows[is_training])
        size = int(is_training.sum())
        spare = _take(population.columns, rng.permutation(population.rows_of(others))[:size])
        table = CANDIDATES[candidate](training, spare, population.schema, rng)
        context = AuditContext.build(population.schema, table)
        owner = population.owner[rows]
        columns = _take(population.columns, rows)
        scores = PatientScores.of(context, columns, owner)
        is_member = ~np.isin(np.unique(owner.astype(str)), held_out.astype(str))
        concluded = conclude(
            count_cells(context.cuts, scores.of_group(is_member)),
            count_cells(context.cuts, scores.of_group(~is_member)),
            ReleasePolicy(),
            sigma_members=0.0,
            sigma_holdout=0.0,
            member_share=1 - NUM_HELD_OUT / NUM_PATIENTS,
        )
        for name, audit in concluded.items():
            rejected[name] += audit.result.p_value < FAMILY_ALPHA
        real = RealPatients(
            context=context, columns=columns, owner=owner, is_member=is_member, scores=scores
        )
        rejected[HighestScores.id] += (HighestScores.run(real).p_value or 0.0) < FAMILY_ALPHA
        rejected[FAMILY] += any(a.p_adjusted < FAMILY_ALPHA for a in concluded.values())
        rejected[GRANTED] += decide([], concluded, _FOUND, required=False).decision == GRANTED
    return {name: count / repeats for name, count in rejected.items()}


def main() -> None:
    """Print the table, one population after the other."""
    folder, repeats = Path(sys.argv[1]), int(sys.argv[2])
    for title, load in POPULATIONS.items():
        population = load(folder)
        print(f"\n| {title} | {' | '.join(COLUMNS)} |")  # noqa: T201
        print("|---|" + "---|" * len(COLUMNS))  # noqa: T201
        for name in CANDIDATES:
            found = rejections(population, name, repeats=repeats)
            print(f"| {name} | {' | '.join(f'{v:.2f}' for v in found.values())} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
