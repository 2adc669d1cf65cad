"""Groups of patients, one by one: a table can be good on average and wrong for the few."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pratique_common.columns import CategoricalColumn
from pratique_common.schema import TableSchema
from pratique_common.utility import cells_of, grid_codes
from pratique_privacy.site_utility import LEAST_PATIENTS
from pratique_server.evaluation.like_sized import LikeSized, figure, shares_of, total_variation
from pratique_server.evaluation.rows import Rows, bootstrap, with_interval
from pratique_server.evaluation.usefulness import (
    Predictions,
    auc_with_interval,
    enough_outcomes,
)

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
    distance_interval: tuple[float, float] | None
    floor: float | None
    """The same of as many patients of the real test table."""
    floor_interval: tuple[float, float] | None
    distance_patients: int | None
    """Of the synthetic and of the test table, in both distances."""
    tstr_auc: float | None
    tstr_interval: tuple[float, float] | None
    trtr_auc: float | None
    trtr_interval: tuple[float, float] | None


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
    distances: tuple[Interval, Interval, int] | None = None
    real, fake, other = parts
    if (
        min(patients) >= LEAST_PATIENTS
        and real is not None
        and fake is not None
        and other is not None
    ):
        distances = _distances(schema, name, real, fake, other, rng)
    aucs = _auc_of_group(name, level, predictions, rng)
    return Subgroup(
        column=name,
        level="missing" if level is None else level,
        patients=patients[0],
        synthetic_rows=int(here.sum()),
        share=float(train.weight[inside[0]].sum() / train.weight.sum()),
        synthetic_share=value,
        share_interval=(lower, upper),
        distance=None if distances is None else distances[0][0],
        distance_interval=None if distances is None else distances[0][1:],
        floor=None if distances is None else distances[1][0],
        floor_interval=None if distances is None else distances[1][1:],
        distance_patients=None if distances is None else distances[2],
        tstr_auc=None if aucs is None else aucs[0][0],
        tstr_interval=None if aucs is None else aucs[0][1:],
        trtr_auc=None if aucs is None else aucs[1][0],
        trtr_interval=None if aucs is None else aucs[1][1:],
    )


def _distances(
    schema: TableSchema, name: str, real: Rows, fake: Rows, other: Rows, rng: np.random.Generator
) -> tuple[Interval, Interval, int]:
    tables = grid_codes(real.columns, [fake.columns, other.columns], schema)
    sizes = np.max([codes.max(0) for codes in tables], axis=0) + 1
    sized = LikeSized.of(real, fake, other, rng)
    found: list[Float64Array] = []
    floors: list[Float64Array] = []
    for d in (place for place, column in enumerate(schema.names) if column != name):
        train, *both = (
            shares_of(cells_of(codes, (d,), sizes), weights, int(sizes[d]))
            for codes, weights in zip(
                tables, (sized.train, sized.synthetic, sized.test), strict=True
            )
        )
        for distances, shares in zip((found, floors), both, strict=True):
            distances.append(total_variation(train, shares))
    return figure(np.mean(found, axis=0)), figure(np.mean(floors, axis=0)), sized.num_patients


def _auc_of_group(
    name: str, level: str | None, predictions: Predictions | None, rng: np.random.Generator
) -> tuple[Interval, Interval] | None:
    """Return TSTR and TRTR."""
    if predictions is None:
        return None
    inside: NDArray[np.bool_] = predictions.rows.columns[name] == level
    label, rows = predictions.label[inside], predictions.rows.take(inside)
    if not enough_outcomes(label, rows):
        return None
    tstr, trtr = (
        auc_with_interval(label, risk[inside], rows, rng)
        for risk in (predictions.risk, predictions.real_risk)
    )
    return tstr, trtr
