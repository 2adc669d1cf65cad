"""Utility: do models that learn from synthetic rows serve real patients, and the other way round?

TSTR: trained on synthetic, tested on real. TRTR: real, real. TRTS: trained on real, tested on
synthetic; above TRTR, the synthetic outcome is easier to predict than it should be.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pratique_common.schema import TableSchema
from pratique_common.utility import labels
from pratique_privacy.site_utility import LEAST_OF_EACH_OUTCOME
from pratique_server.evaluation.learners import LEARNERS, MAIN_LEARNER, Outcome
from pratique_server.evaluation.rows import Measure, Rows, bootstrap, with_interval

Float64Array = NDArray[np.float64]
Interval = tuple[float, float, float]

CURVE_BINS = 10
_EDGE_OF_RISK = 1e-4  # a risk of 0 or 1 has no logit


@dataclass(frozen=True)
class Predictions:
    """What two models of one learner say about the same real patients."""

    rows: Rows
    label: NDArray[np.bool_]
    risk: Float64Array
    """Of the model that learnt from synthetic rows."""
    real_risk: Float64Array
    """Of the one that learnt from real rows."""


@dataclass(frozen=True)
class Usefulness:
    """All that was found."""

    measures: list[Measure]
    predictions: Predictions | None
    """None if they rest on too few patients."""
    curves: dict[str, list[dict[str, float]]]
    """Calibration of models of the main learner, by tenths of risk; none of too few patients."""


def auc(label: NDArray[np.bool_], risk: Float64Array, weight: Float64Array) -> float:
    """Return the area under the curve; NaN where there is one outcome only."""
    used = weight > 0
    if len(np.unique(label[used])) < 2:
        return float("nan")
    return float(roc_auc_score(label[used], risk[used], sample_weight=weight[used]))


def enough_outcomes(label: NDArray[np.bool_], rows: Rows) -> bool:
    """Return whether there are enough patients with and without the outcome."""
    found = [len(np.unique(rows.owner[label == each])) for each in (False, True)]
    return min(found) >= LEAST_OF_EACH_OUTCOME


def _has_enough(schema: TableSchema, rows: Rows) -> bool:
    label, known = labels(schema, rows.columns)
    return bool(known.any()) and enough_outcomes(label[known], rows.take(known))


def usefulness(
    schema: TableSchema, synthetic: Rows, train: Rows, test: Rows, rng: np.random.Generator
) -> Usefulness:
    """Measure discrimination for each learner, and calibration for the main one.

    A figure rests on the table that a model learns from and on the one that it is tested on; with
    too few patients of either outcome in one of them there is none.
    """
    synthetic_enough, train_enough, test_enough = (
        _has_enough(schema, rows) for rows in (synthetic, train, test)
    )
    on_test = test_enough and synthetic_enough, test_enough and train_enough
    outcome = f"{schema.target} = {schema.positive_level}"
    tstr, trts = [], []
    for learner in LEARNERS:
        from_synthetic = Outcome.fit(learner, schema, synthetic)
        from_real = Outcome.fit(learner, schema, train)
        label, risk, rows = from_synthetic.risk(test)
        _, real_risk, _ = from_real.risk(test)
        other_label, other_risk, other_rows = from_real.risk(synthetic)
        mark = "" if learner == MAIN_LEARNER else "_" + learner.replace(" ", "_")
        floor = auc_with_interval(label, real_risk, rows, rng)
        tstr.append(
            _measure(
                f"tstr_auc{mark}",
                f"AUC for {outcome}, {learner}, trained on synthetic, tested on real (TSTR)",
                auc_with_interval(label, risk, rows, rng),
                floor,
                on_test,
            )
        )
        trts.append(
            _measure(
                f"trts_auc{mark}",
                f"AUC for {outcome}, {learner}, trained on real, tested on synthetic (TRTS)",
                auc_with_interval(other_label, other_risk, other_rows, rng),
                floor,
                (train_enough and synthetic_enough, on_test[1]),
            )
        )
        if learner == MAIN_LEARNER:
            predictions = Predictions(rows, label, risk, real_risk)
    calibration = [
        _calibration_measure("calibration_slope", predictions, on_test, rng),
        _calibration_measure("calibration_error", predictions, on_test, rng),
    ]
    curves = {
        name: _curve(label=predictions.label, risk=risk, rows=predictions.rows)
        for name, risk, enough in (
            ("synthetic", predictions.risk, on_test[0]),
            ("real", predictions.real_risk, on_test[1]),
        )
        if enough
    }
    return Usefulness([*tstr, *trts, *calibration], predictions if all(on_test) else None, curves)


def auc_with_interval(
    label: NDArray[np.bool_], risk: Float64Array, rows: Rows, rng: np.random.Generator
) -> Interval:
    """Return the area under the curve and its ends, of sampling patients."""
    resamples = bootstrap(lambda weight: auc(label, risk, weight), rows, rng)
    return with_interval(auc(label, risk, rows.weight), resamples)


def _measure(
    id_: str, title: str, found: Interval, floor: Interval, enough: tuple[bool, bool]
) -> Measure:
    """Return a measure; without figures where the first, its floor where the second, is False."""
    nothing = float("nan"), float("nan"), float("nan")
    value, lower, upper = found if enough[0] else nothing
    baseline, baseline_lower, baseline_upper = floor if enough[1] else nothing
    return Measure(
        id=id_,
        title=title,
        value=value,
        lower=lower,
        upper=upper,
        baseline=baseline,
        baseline_title="trained and tested on real (TRTR)",
        baseline_lower=baseline_lower,
        baseline_upper=baseline_upper,
        few=not all(enough),
    )


def _calibration_measure(
    id_: str, found: Predictions, enough: tuple[bool, bool], rng: np.random.Generator
) -> Measure:
    statistic, title, least, most = {
        "calibration_slope": (
            _slope,
            "Calibration slope of TSTR, gradient boosting (1 is best; below: too sure of itself)",
            -np.inf,
            np.inf,
        ),
        "calibration_error": (
            _error,
            "Mean gap between predicted and observed risk by tenths of patients, same model",
            0.0,
            1.0,
        ),
    }[id_]

    def of(risk: Float64Array) -> Interval:
        resamples = bootstrap(lambda weight: statistic(found.label, risk, weight), found.rows, rng)
        value = statistic(found.label, risk, found.rows.weight)
        return with_interval(value, resamples, least=least, most=most)

    return _measure(id_, title, of(found.risk), of(found.real_risk), enough)


def _slope(label: NDArray[np.bool_], risk: Float64Array, weight: Float64Array) -> float:
    """Return the slope of a logistic regression of outcomes on the logit of risks (Cox 1958)."""
    x = logit(risk.clip(_EDGE_OF_RISK, 1 - _EDGE_OF_RISK))[:, None]
    used = weight > 0
    if len(np.unique(label[used])) < 2 or np.ptp(x) == 0:
        return float("nan")
    model = LogisticRegression(C=np.inf).fit(x[used], label[used], sample_weight=weight[used])
    return float(model.coef_[0, 0])


def _error(label: NDArray[np.bool_], risk: Float64Array, weight: Float64Array) -> float:
    """Return the expected calibration error over tenths of equal weight (Naeini et al. 2015)."""
    tenth = _tenths(risk, weight)
    total = np.bincount(tenth, weight, CURVE_BINS)
    gap = np.bincount(tenth, weight * (label - risk), CURVE_BINS)
    return float(np.abs(gap).sum() / total.sum()) if total.sum() > 0 else float("nan")


def _tenths(risk: Float64Array, weight: Float64Array) -> NDArray[np.int64]:
    order = np.argsort(risk, kind="stable")
    before = np.cumsum(weight[order]) - weight[order] / 2
    tenth = np.empty(len(risk), np.int64)
    tenth[order] = np.minimum(before / max(weight.sum(), 1e-300) * CURVE_BINS, CURVE_BINS - 1)
    return tenth


def _curve(*, label: NDArray[np.bool_], risk: Float64Array, rows: Rows) -> list[dict[str, float]]:
    tenth = _tenths(risk, rows.weight)
    points = []
    for number in range(CURVE_BINS):
        here = tenth == number
        total = rows.weight[here].sum()
        if total > 0:
            points.append(
                {
                    "predicted": float((rows.weight[here] * risk[here]).sum() / total),
                    "observed": float((rows.weight[here] * label[here]).sum() / total),
                }
            )
    return points
