"""Exact nearest neighbours of mixed rows under Gower's distance, in constant memory.

Shapes: Q query rows, R reference rows. A column contributes at most 1 and the distance is their
sum: numbers are mapped by the ECDF of a *public* table (the candidate), never by real ranges;
levels that differ count 1; missing is a level, and missing against missing is a match. Ranks are
rounded to whole numbers of a unit, so that sums are exact: to a 700,000th with 24 columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.columns import AnyColumn, CategoricalColumn
from pratique_common.schema import TableSchema
from pratique_privacy.nearest_rows import (
    linkable_rows,
    nearest_rows,
    screened_queries,
    screened_rows,
)

Columns = Mapping[str, NDArray[Any]]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Int32Array = NDArray[np.int32]

_EXACT_BELOW = 1 << 24  # fits 32-bit integers, and so do sums of any columns
_BLOCK_QUERIES = 512  # of one call: it can be interrupted in between


@dataclass(frozen=True)
class EncodedRows:
    """Rows ready for distances; the columns of the first half come first.

    Attributes:
        numbers: mid-ranks in the encoder's units, (rows, columns).
        levels: codes, (rows, columns).
    """

    numbers: Int32Array
    levels: Int32Array

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.numbers)

    def take(self, rows: NDArray[Any]) -> "EncodedRows":
        """Return some rows."""
        return EncodedRows(self.numbers[rows], self.levels[rows])


@dataclass(frozen=True)
class Neighbours:
    """For each query row: distances to its nearest and second nearest reference row, the nearest
    row's position, and whether one row is nearest on both halves of the columns at once."""

    first: Float64Array
    second: Float64Array
    nearest: NDArray[np.int64]
    linkable: NDArray[np.bool_]


class MixedEncoder:
    """Maps rows to the space of the distance; fitted on a public table alone."""

    def __init__(self, schema: TableSchema, public: Columns) -> None:
        """Fit the columns' ECDFs."""
        self._ecdf = {
            column.name: _ecdf(public[column.name][~np.isnan(public[column.name])])
            for column in schema.columns
            if not isinstance(column, CategoricalColumn)
        }
        self._unit = _EXACT_BELOW // len(schema.columns)
        # Alternating columns, so that both halves hold numbers and levels.
        numbers = [c for c in schema.columns if not isinstance(c, CategoricalColumn)]
        levels = [c for c in schema.columns if isinstance(c, CategoricalColumn)]
        self._in_first_half = (len(numbers) + 1) // 2, len(levels) // 2
        self._numbers = [*numbers[0::2], *numbers[1::2]]
        self._levels = [*levels[1::2], *levels[0::2]]

    def encode(self, columns: Columns) -> EncodedRows:
        """Encode rows of the schema."""
        num_rows = len(next(iter(columns.values())))
        numbers = [self._mid_ranks(column.name, columns[column.name]) for column in self._numbers]
        levels = [level_codes(column, columns[column.name]) for column in self._levels]
        return EncodedRows(_stacked(numbers, num_rows), _stacked(levels, num_rows))

    def nearest(
        self, query: EncodedRows, reference: EncodedRows, *, leave_out_self: bool = False
    ) -> Neighbours:
        """Return the exact nearest neighbours of every query row.

        Args:
            query: Q rows.
            reference: R ≥ 3 rows.
            leave_out_self: query row i is reference row i and does not count.
        """
        size, unit = query.num_rows, np.int32(self._unit)
        first, second = np.empty(size, np.int32), np.empty(size, np.int32)
        position, linkable = np.empty(size, np.int64), np.empty(size, np.bool_)
        screened = screened_rows(reference.numbers, reference.levels, unit)
        for start in range(0, size, _BLOCK_QUERIES):
            rows = slice(start, start + _BLOCK_QUERIES)
            own = start if leave_out_self else -_BLOCK_QUERIES
            some = screened_queries(query.numbers[rows], query.levels[rows], unit)
            nearest_rows(some, screened, unit, own, first[rows], second[rows], position[rows])
            halves = self._in_first_half
            linkable_rows(some, screened, *halves, unit, own, position[rows], linkable[rows])
        return Neighbours(first / unit, second / unit, position, linkable)

    def without(self, name: str, rows: EncodedRows) -> EncodedRows:
        """Return rows without a column, for distances; ``linkable`` then means nothing."""
        for place, column in enumerate(self._numbers):
            if column.name == name:
                return EncodedRows(np.delete(rows.numbers, place, axis=1), rows.levels)
        place = [column.name for column in self._levels].index(name)
        return EncodedRows(rows.numbers, np.delete(rows.levels, place, axis=1))

    def agree(
        self, column: AnyColumn, values: NDArray[Any], others: NDArray[Any], *, within: float
    ) -> NDArray[np.bool_]:
        """Return where two values of a column are alike: levels equal, numbers' ranks near.

        Args:
            column: of the schema.
            values, others: of one shape.
            within: the most that ranks, from 0 to 1, may differ; missing agrees with missing.
        """
        if isinstance(column, CategoricalColumn):
            return np.asarray(level_codes(column, values) == level_codes(column, others))
        apart = np.abs(self._mid_ranks(column.name, values) - self._mid_ranks(column.name, others))
        return np.asarray(apart <= within * self._unit)

    def _mid_ranks(self, name: str, values: NDArray[Any]) -> IntArray:
        """Return the unit times the ECDF's mid-rank; missing lies a unit beyond all others."""
        distinct, num_below = self._ecdf[name]
        below = num_below[np.searchsorted(distinct, values, side="left")]
        up_to = num_below[np.searchsorted(distinct, values, side="right")]
        ranks = np.rint((below + up_to) * (self._unit / (2 * max(1, num_below[-1]))))
        return np.where(np.isnan(values), 2 * self._unit, ranks).astype(np.int64)


def _ecdf(values: Float64Array) -> tuple[Float64Array, IntArray]:
    """Return distinct values, ascending, and how many values are below each, and in all."""
    distinct, counts = np.unique(values, return_counts=True)
    return distinct, np.concatenate([[0], np.cumsum(counts)])


def level_codes(column: AnyColumn, values: NDArray[Any]) -> IntArray:
    """Return each level's position, and one more for missing.

    Raises:
        ValueError: a level is outside the domain; the message holds no value of a record.
    """
    assert isinstance(column, CategoricalColumn)
    position = {level: code for code, level in enumerate([*column.levels, None])}
    found = map(position.get, values.tolist(), repeat(-1))
    codes = np.fromiter(found, np.int64, len(values))
    if (codes < 0).any():
        raise ValueError(f"column {column.name} holds a level outside its domain")
    return codes


def _stacked(columns: list[IntArray], num_rows: int) -> Int32Array:
    empty = np.zeros((num_rows, 0), np.int32)
    return np.stack(columns, axis=1).astype(np.int32) if columns else empty
