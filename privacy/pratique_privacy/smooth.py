"""A smooth stand-in for a table: its columns as they are, its rows forgotten.

A Gaussian copula of ranks keeps each column's distribution and pairwise association and no row. The
audit uses it as the density of patients in general, without any real reference data (van Breugel et
al. 2023, "Membership inference attacks against synthetic data through overfitting detection",
AISTATS, ask for such a reference), and as phantom patients for its own control.

Features of single planes of images, where the table has them, are more columns of its copula.

Shapes: N rows, D columns.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from pratique_common.columns import AnyColumn, CategoricalColumn
from pratique_common.images.spec import PLANES, features_of
from pratique_common.schema import TableSchema
from pratique_privacy.neighbours import level_codes

Columns = Mapping[str, NDArray[Any]]
Float64Array = NDArray[np.float64]

_RIDGE = 1e-6
"""Columns that follow from others make a correlation singular; a Cholesky factor is unique, so that
two machines draw the same rows, where signs of eigenvectors are not."""


class SmoothTable:
    """Draws rows with the columns and rank correlations of a table."""

    def __init__(self, schema: TableSchema, table: Columns, rng: np.random.Generator) -> None:
        """Fit on a table of one row or more; ``rng`` breaks ties of ranks."""
        self._names = schema.names
        self._planes_shape = table[PLANES].shape[1:] if PLANES in table else None
        scores: list[Float64Array] = []
        self._sorted: list[tuple[AnyColumn, NDArray[Any]]] = []
        for column, values in _series(schema, table):
            keys = _sort_keys(column, values)
            order = np.lexsort((rng.random(len(keys)), keys))
            self._sorted.append((column, values[order]))
            ranks = np.empty(len(keys))
            ranks[order] = np.arange(len(keys))
            scores.append(ndtri((ranks + 0.5) / len(keys)))
        # All columns have the same scores in another order: the mean product is the correlation.
        scores_DN = np.array(scores)
        correlation = scores_DN @ scores_DN.T / np.maximum((scores_DN[0] ** 2).sum(), _RIDGE)
        correlation = (1 - _RIDGE) * correlation + _RIDGE * np.eye(len(scores))
        self._factor = np.linalg.cholesky(correlation)

    def draw(self, num_rows: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Return rows of the schema, with planes if the table has them."""
        size = len(self._sorted[0][1])
        normal_ND = rng.standard_normal((num_rows, len(self._factor))) @ self._factor.T
        place_ND = np.minimum(ndtr(normal_ND) * size, np.nextafter(size, 0))
        series = [
            _between(column, values, place_N)
            for (column, values), place_N in zip(self._sorted, place_ND.T, strict=True)
        ]
        num = len(self._names)
        drawn = dict(zip(self._names, series[:num], strict=True))
        if self._planes_shape is not None:
            flat = np.stack(series[num:], axis=1)
            drawn[PLANES] = flat.reshape(num_rows, *self._planes_shape)
        return drawn


def _series(schema: TableSchema, table: Columns) -> Iterator[tuple[AnyColumn, NDArray[Any]]]:
    """Yield each column with its values, then each feature of each plane, (N,)."""
    for column in schema.columns:
        yield column, table[column.name]
    if PLANES in table:
        like = features_of(schema)[0]  # all features have one domain
        for values in table[PLANES].reshape(len(table[PLANES]), -1).T:
            yield like, values


def _between(column: AnyColumn, values: NDArray[Any], place_N: Float64Array) -> NDArray[Any]:
    """Return values at places in their order; of numbers, between two on the column's grid.

    Otherwise many rows drawn of a small table would be equal in all numbers.
    """
    below = place_N.astype(np.int64)
    low = values[below]
    if isinstance(column, CategoricalColumn):
        return low
    high = values[np.minimum(below + 1, len(values) - 1)]
    inner = np.round(low + (place_N - below) * (high - low), column.decimals_shown)
    return np.where(np.isnan(inner), low, inner)


def _sort_keys(column: AnyColumn, values: NDArray[Any]) -> Float64Array:
    """Return numbers in the order of the values, missing ones first."""
    if isinstance(column, CategoricalColumn):
        codes = level_codes(column, values)
        return np.where(codes == len(column.levels), -1, codes).astype(np.float64)
    return np.where(np.isnan(values), -np.inf, values.astype(np.float64))
