"""Groups of patients, one by one: a table can be good on average and wrong for the few."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pratique_common.columns import CategoricalColumn
from pratique_common.schema import TableSchema
from pratique_common.utility import cells_of, grid_codes
from pratique_privacy.site_utility import LEAST_OF_EACH_OUTCOME, LEAST_PATIENTS
from pratique_server.evaluation.rows import Rows, bootstrap, with_interval
from pratique_server.evaluation.usefulness import Predictions, auc

Float64Array = NDArray[np.float64]
Interval = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """One category of one column. None stands where there are too few patients for a figure."""

    column: str
    level: str
    patients: int
    """Real patients of the training table (a patient with several rows may be in several)."""
    synthetic_rows: int
    share: float
    synthetic_share: float
    share_interval: tuple[float, float]
    """Of the synthetic share."""
    distance: float | None
    """Mean 1-way TV distance of the other columns within the group."""
    floor: float | None
    """The same of the real test table."""
    tstr_auc: float | None
    tstr_interval: tuple[float, float] | None
    trtr_auc: float | None


def subgroups(
    schema: TableSchema,
    names: Sequence[str],
    synthetic: Rows,
    train: Rows,
    test: Rows,
    predictions: Predictions | None,
    rng: np.random.Generator,
) -> list[Subgroup]:
    """Look at every category of the named columns, missing among them."""
    found = []
    for name in names:
        column = schema.column(name)
        if not isinstance(column, CategoricalColumn):
            raise ValueError(f"'{name}' is numeric")
        levels: list[str | None] = [*column.levels, *([None] if column.can_be_missing else [])]
        found += [
            _subgroup(schema, name, level, synthetic, train, test, predictions, rng)
            for level in levels
        ]
    return found


def _subgroup(
    schema: TableSchema,
    name: str,
    level: str | None,
    synthetic: Rows,
    train: Rows,
    test: Rows,
    predictions: Predictions | None,
    rng: np.random.Generator,
) -> Subgroup:
    inside = [rows.columns[name] == level for rows in (train, synthetic, test)]
    here = inside[1]

    def share(weight: Float64Array) -> float:
        return float(weight[here].sum() / max(weight.sum(), 1e-300))

    value, lower, upper = with_interval(share(synthetic.weight), bootstrap(share, synthetic, rng))
    parts = [
        rows.take(mask) if mask.any() else None
        for rows, mask in zip((train, synthetic, test), inside, strict=True)
    ]
    patients = [0 if part is None else part.num_patients for part in parts]
    distance = floor = None
    real, fake, other = parts
    if (
        min(patients) >= LEAST_PATIENTS
        and real is not None
        and fake is not None
        and other is not None
    ):
        distance, floor = _distances(schema, name, real, fake, other)
    tstr = _auc_of_group(name, level, predictions, rng)
    return Subgroup(
        column=name,
        level="missing" if level is None else level,
        patients=patients[0],
        synthetic_rows=int(here.sum()),
        share=float(train.weight[inside[0]].sum() / train.weight.sum()),
        synthetic_share=value,
        share_interval=(lower, upper),
        distance=distance,
        floor=floor,
        tstr_auc=None if tstr is None else tstr[0][0],
        tstr_interval=None if tstr is None else tstr[0][1:],
        trtr_auc=None if tstr is None else tstr[1],
    )


def _distances(
    schema: TableSchema, name: str, real: Rows, fake: Rows, other: Rows
) -> tuple[float, float]:
    tables = grid_codes(real.columns, [fake.columns, other.columns], schema)
    sizes = np.max([codes.max(0) for codes in tables], axis=0) + 1
    found = []
    for d in (place for place, column in enumerate(schema.names) if column != name):
        shares = []
        for codes, rows in zip(tables, (real, fake, other), strict=True):
            counts = np.bincount(cells_of(codes, (d,), sizes), rows.weight, int(sizes[d]))
            shares.append(counts / counts.sum())
        found.append([0.5 * np.abs(shares[0] - each).sum() for each in shares[1:]])
    distance, floor = np.mean(found, axis=0)
    return float(distance), float(floor)


def _auc_of_group(
    name: str, level: str | None, predictions: Predictions | None, rng: np.random.Generator
) -> tuple[Interval, float] | None:
    if predictions is None:
        return None
    inside: NDArray[np.bool_] = predictions.rows.columns[name] == level
    label = predictions.label[inside]
    rows, risk = predictions.rows.take(inside), predictions.risk[inside]
    if min(len(np.unique(rows.owner[label == each])) for each in (0, 1)) < LEAST_OF_EACH_OUTCOME:
        return None
    resamples = bootstrap(lambda weight: auc(label, risk, weight), rows, rng)
    tstr = with_interval(auc(label, risk, rows.weight), resamples)
    return tstr, auc(label, predictions.real_risk[inside], rows.weight)
