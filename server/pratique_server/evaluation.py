"""Fidelity and utility of a synthetic table against real ones, with intervals of sampling."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from pratique_common.schema import TableSchema
from pratique_common.tables import Table
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

    Intervals are of sampling rows (Poisson bootstrap of the synthetic table for TV, of the test
    table for AUC), at 95 %, normal; the spread over training seeds is not in them.
    """
    rng = np.random.default_rng(0)
    real, fake, other = grid_codes(train.columns, [synthetic.columns, test.columns], schema)
    measures = [_tv(real, fake, other, order, rng) for order in (1, 2)]
    if schema.target is not None:
        measures.append(_tstr(schema, synthetic, train, test, rng))
    return measures


def as_data(measures: list[Measure]) -> dict[str, Any]:
    """Return measures for JSON."""
    return {measure.id: asdict(measure) for measure in measures}


def _tv(
    real: NDArray[np.int64],
    fake: NDArray[np.int64],
    other: NDArray[np.int64],
    order: int,
    rng: np.random.Generator,
) -> Measure:
    value = mean_tv(real, fake, order, np.ones(len(fake)))
    resamples = [
        mean_tv(real, fake, order, rng.poisson(1, len(fake)).astype(float))
        for _ in range(_RESAMPLES)
    ]
    half = _Z_95 * float(np.std(resamples))
    return Measure(
        id=f"tv{order}",
        title=f"Mean {order}-way total variation distance to the training table",
        value=value,
        lower=max(0.0, value - half),
        upper=value + half,
        baseline=mean_tv(real, other, order, np.ones(len(other))),
        baseline_title="the real test table instead of the synthetic one",
    )


def _tstr(
    schema: TableSchema, synthetic: Table, train: Table, test: Table, rng: np.random.Generator
) -> Measure:
    label, risk = OutcomeModel.fit(schema, synthetic.columns).auc_inputs(test.columns)
    value = _auc(label, risk, np.ones(len(label)))
    resamples = [
        _auc(label, risk, rng.poisson(1, len(label)).astype(float)) for _ in range(_RESAMPLES)
    ]
    half = _Z_95 * float(np.nanstd(resamples))
    real_label, real_risk = OutcomeModel.fit(schema, train.columns).auc_inputs(test.columns)
    return Measure(
        id="tstr_auc",
        title=f"AUC for {schema.target} = {schema.positive_level}, trained on synthetic, "
        "tested on real",
        value=value,
        lower=value - half,
        upper=min(1.0, value + half),
        baseline=_auc(real_label, real_risk, np.ones(len(real_label))),
        baseline_title="trained on the real training table",
    )


def _auc(label: NDArray[np.bool_], risk: NDArray[np.float64], weight: NDArray[Any]) -> float:
    used = weight > 0
    if len(np.unique(label[used])) < 2:
        return float("nan")
    return float(roc_auc_score(label[used], risk[used], sample_weight=weight[used]))
