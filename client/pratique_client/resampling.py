"""Balanced tables by resampling of patients: for the hospital's own models, never released.

Over-sampling repeats patients, SMOTE and its kin draw lines between two of them (Chawla et al.
2002; Han et al. 2005; He et al. 2008). Nothing here is private: ``pratique audit`` fails such
tables, a study cannot ask for them, and no candidate is made of them.

Shapes: N rows, F features; ``codes`` is (N, F).
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from imblearn.over_sampling import ADASYN, SMOTE, SMOTENC, BorderlineSMOTE, RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler
from numpy.typing import NDArray

from pratique_common.binned_columns import BinnedColumn
from pratique_common.columns import AnyColumn, CategoricalColumn
from pratique_common.errors import NotEnoughDataError, UsageError
from pratique_common.schema import TableSchema
from pratique_common.tables import Table, to_arrow
from pratique_common.utility import predictors

Float64Array = NDArray[np.float64]

NEIGHBOURS = 5
"""The papers' number."""

REPEATING = {"random_over": RandomOverSampler, "random_under": RandomUnderSampler}
_INTERPOLATING = {"smote": SMOTE, "borderline_smote": BorderlineSMOTE, "adasyn": ADASYN}


def resample(table: Table, schema: TableSchema, method: str, *, seed: int) -> pa.Table:
    """Return a table in which all outcomes are about as frequent, as far as the method can.

    Args:
        table: accepted rows.
        schema: with a target.
        method: a name in ``pratique_common.generators.LOCAL_ONLY``.
        seed: the same seed gives the same rows.

    Raises:
        UsageError: the study has no target.
        NotEnoughDataError: an outcome has too few rows to draw lines between them.
    """
    if schema.target is None:
        raise UsageError("the study names no target: there is nothing to balance")
    outcome = table.columns[schema.target]
    known = np.array([value is not None for value in outcome])
    label = outcome[known].astype(str)
    levels, counts = np.unique(label, return_counts=True)
    if len(levels) < 2:
        raise NotEnoughDataError(
            "rows of two outcomes are needed, and these have one; take more patients",
            code="too_few_patients",
        )
    if method in _INTERPOLATING and counts.min() <= NEIGHBOURS:
        raise NotEnoughDataError(
            f"two outcomes with more than {NEIGHBOURS} rows each are needed; take another method "
            "or more patients",
            code="too_few_patients",
        )
    if method in REPEATING:
        sampler = REPEATING[method](random_state=seed)
        rows = np.flatnonzero(known)[:, None]
        chosen, _ = sampler.fit_resample(rows, label)
        columns = {name: values[chosen[:, 0]] for name, values in table.columns.items()}
        return to_arrow(columns, schema)
    part = {name: values[known] for name, values in table.columns.items()}
    features = _Features.of(schema, part)
    mixed = features.levels.any() and not features.levels.all()
    try:
        if method == "smote" and mixed:
            places = np.flatnonzero(features.levels).tolist()
            sampler = SMOTENC(places, random_state=seed, k_neighbors=NEIGHBOURS)
            x, y = sampler.fit_resample(features.codes, label)
        else:
            x, y = _INTERPOLATING[method](random_state=seed).fit_resample(features.one_hot(), label)
            x = features.most(x)
    except (ValueError, RuntimeError):
        raise NotEnoughDataError(
            f"{method} finds nothing to draw in these data; take another method",
            code="too_few_patients",
        ) from None
    columns = {**features.decode(x), schema.target: y.astype(object)}
    schema.blank_unasked(columns)
    obeys = schema.obeys_rules(columns)  # lines between two patients may break a rule
    return to_arrow({name: values[obeys] for name, values in columns.items()}, schema)


@dataclass(frozen=True)
class _Features:
    """Predictors as numbers: values and, where a column may lack them, a flag; codes of levels."""

    columns: list[AnyColumn]
    codes: Float64Array
    levels: NDArray[np.bool_]
    """Which features are codes, (F,)."""
    sizes: list[int]
    """Number of codes of each of these."""

    @classmethod
    def of(cls, schema: TableSchema, table: dict[str, NDArray[np.generic]]) -> "_Features":
        """Encode accepted rows."""
        features: list[Float64Array] = []
        levels: list[bool] = []
        sizes: list[int] = []
        for column in predictors(schema):
            values = table[column.name]
            if isinstance(column, CategoricalColumn):
                position = {level: code for code, level in enumerate([*column.levels, None])}
                features.append(np.array([position[value] for value in values.tolist()], float))
                levels.append(True)
                sizes.append(len(column.levels) + 1)
                continue
            numbers = values.astype(np.float64)
            missing = np.isnan(numbers)
            middle = float(np.median(numbers[~missing])) if (~missing).any() else 0.0
            features.append(np.where(missing, middle, numbers))
            levels.append(False)
            if column.can_be_missing:
                features.append(missing.astype(float))
                levels.append(True)
                sizes.append(2)
        return cls(list(predictors(schema)), np.stack(features, axis=1), np.array(levels), sizes)

    def one_hot(self) -> Float64Array:
        """Return features with one column a level, numbers in units of their spread."""
        parts, sizes = [], iter(self.sizes)
        for feature, is_level in zip(self.codes.T, self.levels, strict=True):
            if is_level:
                parts.append(np.eye(next(sizes))[feature.astype(np.int64)])
            else:
                parts.append(feature[:, None] / self._scale(feature))
        return np.concatenate(parts, axis=1)

    def most(self, x: Float64Array) -> Float64Array:
        """Return codes of rows like ``one_hot``'s: of levels that were mixed, the largest."""
        parts, sizes, start = [], iter(self.sizes), 0
        for feature, is_level in zip(self.codes.T, self.levels, strict=True):
            width = next(sizes) if is_level else 1
            block = x[:, start : start + width]
            parts.append(block.argmax(1) if is_level else block[:, 0] * self._scale(feature))
            start += width
        return np.stack(parts, axis=1)

    def decode(self, x: Float64Array) -> dict[str, NDArray[np.generic]]:
        """Return columns of values."""
        features = iter(x.T)
        columns: dict[str, NDArray[np.generic]] = {}
        for column in self.columns:
            values = next(features)
            if isinstance(column, CategoricalColumn):
                levels = np.array([*column.levels, None], object)
                columns[column.name] = levels[values.astype(np.int64)]
                continue
            rounded = self._rounded(values, column)
            if column.can_be_missing:
                rounded[next(features) > 0] = np.nan
            columns[column.name] = rounded
        return columns

    @staticmethod
    def _rounded(values: Float64Array, column: BinnedColumn) -> Float64Array:
        edges = column.bin_edges()
        return np.round(values, column.decimals_shown).clip(edges[0], edges[-1])

    @staticmethod
    def _scale(feature: Float64Array) -> float:
        return float(feature.std()) or 1.0
