"""How useful a synthetic table is: marginals (TV) and train-on-synthetic, test-on-real (TSTR)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from pratique_common.columns import AnyColumn, CategoricalColumn
from pratique_common.rules import is_missing
from pratique_common.schema import TableSchema

Columns = Mapping[str, NDArray[Any]]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

_GRID_BINS = 20
_TREES = 150
_MAX_MODEL_LEVELS = 255
"""What scikit-learn's gradient boosting takes as categorical; above it codes are numbers."""


def grid_codes(real: Columns, others: list[Columns], schema: TableSchema) -> list[IntArray]:
    """Return codes (rows, D) of each table on a grid of 20 quantile bins of ``real``.

    No generator sees this grid; missing is a bin of its own.
    """
    tables = [real, *others]
    coded: list[list[IntArray]] = [[] for _ in tables]
    for column in schema.columns:
        if not isinstance(column, CategoricalColumn):
            values = real[column.name]
            inner = np.linspace(0, 1, _GRID_BINS + 1)[1:-1]
            known = values[~np.isnan(values)]
            cuts = np.unique(np.quantile(known, inner)) if len(known) else np.zeros(0)
            for codes, table in zip(coded, tables, strict=True):
                raw = table[column.name]
                codes.append(
                    np.where(np.isnan(raw), len(cuts) + 1, np.searchsorted(cuts, raw, side="right"))
                )
        else:
            position = {level: code for code, level in enumerate([*column.levels, None])}
            for codes, table in zip(coded, tables, strict=True):
                codes.append(np.array([position[v] for v in table[column.name]], np.int64))
    return [np.stack(codes, axis=1) for codes in coded]


def mean_tv(
    real: IntArray,
    synthetic: IntArray,
    order: int,
    *,
    real_weight: Float64Array,
    synthetic_weight: Float64Array,
    most_marginals: int | None = None,
) -> float:
    """Return the mean total variation distance over all marginals of ``order`` columns.

    Args:
        real, synthetic: codes (rows, D) on one grid.
        order: 1, 2 or 3.
        real_weight, synthetic_weight: of rows, (rows,); they need not sum to one.
        most_marginals: take so many at random, always the same ones, if there are more.
    """
    sizes = np.maximum(real.max(0), synthetic.max(0)) + 1
    distances = []
    marginals = list(combinations(range(real.shape[1]), order))
    if most_marginals is not None and most_marginals < len(marginals):
        picked = np.random.default_rng(0).choice(len(marginals), most_marginals, replace=False)
        marginals = [marginals[number] for number in picked]
    for chosen in marginals:
        cell_r, cell_s = (cells_of(codes, chosen, sizes) for codes in (real, synthetic))
        size = int(np.prod(sizes[list(chosen)]))
        p = np.bincount(cell_r, real_weight, minlength=size) / real_weight.sum()
        q = np.bincount(cell_s, synthetic_weight, minlength=size) / synthetic_weight.sum()
        distances.append(0.5 * np.abs(p - q).sum())
    return float(np.mean(distances))


def cells_of(codes: IntArray, chosen: tuple[int, ...], sizes: IntArray) -> IntArray:
    """Return the cell of each row in the marginal of the chosen columns, (rows,)."""
    cell = np.zeros(len(codes), np.int64)
    for d in chosen:
        cell = cell * sizes[d] + codes[:, d]
    return cell


@dataclass(frozen=True)
class OutcomeModel:
    """Gradient boosting that predicts the study's target from the other columns."""

    schema: TableSchema
    model: HistGradientBoostingClassifier | None
    """None if the training table holds one outcome only: every patient then has the same risk."""

    @staticmethod
    def fit(schema: TableSchema, columns: Columns) -> "OutcomeModel":
        """Fit on a table; the same table gives the same model (fixed seed, no early stopping)."""
        label, known = labels(schema, columns)
        if len(np.unique(label[known])) < 2:
            return OutcomeModel(schema, None)
        model = HistGradientBoostingClassifier(
            max_iter=_TREES,
            early_stopping=False,
            random_state=0,
            categorical_features=categorical_mask(predictors(schema)),
        )
        model.fit(learnable(features(predictors(schema), columns)[known]), label[known])
        return OutcomeModel(schema, model)

    def risk(self, columns: Columns) -> Float64Array:
        """Return the predicted probability of the positive outcome, (rows,)."""
        x = features(predictors(self.schema), columns)
        if self.model is None:
            return np.full(len(x), 0.5)
        return np.asarray(self.model.predict_proba(x)[:, 1], np.float64)

    def auc_inputs(self, columns: Columns) -> tuple[NDArray[np.bool_], Float64Array]:
        """Return label and risk of the rows whose outcome is known."""
        label, known = labels(self.schema, columns)
        return label[known], self.risk(columns)[known]


def labels(schema: TableSchema, columns: Columns) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each row whether the outcome is positive, and whether it is known."""
    assert schema.target is not None
    values = columns[schema.target]
    return np.asarray(values == schema.positive_level, bool), ~is_missing(values)


def predictors(schema: TableSchema) -> list[AnyColumn]:
    """Return all columns but the target."""
    return [column for column in schema.columns if column.name != schema.target]


def categorical_mask(chosen: Sequence[AnyColumn]) -> list[bool]:
    """Return which columns gradient boosting takes as categories."""
    return [
        isinstance(column, CategoricalColumn) and len(column.levels) <= _MAX_MODEL_LEVELS
        for column in chosen
    ]


def features(chosen: Sequence[AnyColumn], columns: Columns) -> Float64Array:
    """Return numbers and codes of levels, (rows, columns), NaN where missing."""
    x = []
    for column in chosen:
        values = columns[column.name]
        if not isinstance(column, CategoricalColumn):
            x.append(values)
        else:
            codes = {level: float(code) for code, level in enumerate(column.levels)}
            x.append(np.array([codes.get(value, np.nan) for value in values]))
    return np.stack(x, axis=1)


def learnable(x: Float64Array) -> Float64Array:
    """Return features with zeros in columns that have no value: scikit-learn cannot bin them."""
    return np.where(np.isnan(x).all(axis=0), 0.0, x)
