"""Fidelity and utility of a synthetic table against real ones, with intervals of sampling."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from pratique_common.rules import is_missing
from pratique_common.schema import TableSchema
from pratique_common.tables import Table, cap_rows, row_weights
from pratique_common.utility import OutcomeModel, grid_codes, mean_tv

_RESAMPLES = 60
_Z_95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure with its 95 % interval, and what the same figure is without synthesis."""

    id: str
    title: str
    value: float
    lower: float
    upper: float
    baseline: float | None
    baseline_title: str


def evaluate(schema: TableSchema, *, synthetic: Table, train: Table, test: Table) -> list[Measure]:
    """Return mean 1-way and 2-way TV to ``train``, and TSTR on ``test`` if there is a target.

    Real tables are seen as the generator sees them: rows a patient are capped as in the study and
    every patient weighs the same. Intervals are of sampling rows (Poisson bootstrap of the
    synthetic table for TV, of the test table for AUC), at 95 %, normal; the spread over training
    seeds is not in them.
    """
    rng = np.random.default_rng(0)
    train, test = cap_rows(train, schema), cap_rows(test, schema)
    codes = grid_codes(train.columns, [synthetic.columns, test.columns], schema)
    weights = [row_weights(train), np.ones(synthetic.num_rows), row_weights(test)]
    measures = [_tv(codes, weights, order, rng) for order in (1, 2)]
    if schema.target is not None:
        measures.append(_tstr(schema, synthetic, train, test, rng))
    return measures


def as_data(measures: list[Measure]) -> dict[str, Any]:
    """Return measures for JSON; what is not defined (an AUC of one outcome) is None."""
    return {
        measure.id: {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in asdict(measure).items()
        }
        for measure in measures
    }


def _tv(
    codes: list[NDArray[np.int64]],
    weights: list[NDArray[np.float64]],
    order: int,
    rng: np.random.Generator,
) -> Measure:
    (real, fake, other), (real_weight, fake_weight, other_weight) = codes, weights

    def distance(table: NDArray[np.int64], weight: NDArray[np.float64]) -> float:
        return mean_tv(real, table, order, real_weight=real_weight, synthetic_weight=weight)

    value = distance(fake, fake_weight)
    resamples = [distance(fake, rng.poisson(1, len(fake)).astype(float)) for _ in range(_RESAMPLES)]
    half = _Z_95 * float(np.std(resamples))
    return Measure(
        id=f"tv{order}",
        title=f"Mean {order}-way total variation distance to the training table",
        value=value,
        lower=max(0.0, value - half),
        upper=min(1.0, value + half),
        baseline=distance(other, other_weight),
        baseline_title="the real test table instead of the synthetic one",
    )


def _tstr(
    schema: TableSchema, synthetic: Table, train: Table, test: Table, rng: np.random.Generator
) -> Measure:
    weight = row_weights(test)[~is_missing(test.columns[str(schema.target)])]
    label, risk = OutcomeModel.fit(schema, synthetic.columns).auc_inputs(test.columns)
    value = _auc(label, risk, weight)
    resamples = [_auc(label, risk, weight * rng.poisson(1, len(label))) for _ in range(_RESAMPLES)]
    # A test table of one outcome has no AUC, and the interval is everything.
    half = _Z_95 * float(np.nanstd(resamples)) if np.isfinite(value) else np.inf
    _, real_risk = OutcomeModel.fit(schema, train.columns).auc_inputs(test.columns)
    return Measure(
        id="tstr_auc",
        title=f"AUC for {schema.target} = {schema.positive_level}, trained on synthetic, "
        "tested on real",
        value=value,
        lower=max(0.0, value - half),
        upper=min(1.0, value + half),
        baseline=_auc(label, real_risk, weight),
        baseline_title="trained on the real training table",
    )


def _auc(label: NDArray[np.bool_], risk: NDArray[np.float64], weight: NDArray[Any]) -> float:
    used = weight > 0
    if len(np.unique(label[used])) < 2:
        return float("nan")
    return float(roc_auc_score(label[used], risk[used], sample_weight=weight[used]))
