"""Rows as integers and back: what the generator and the histograms see.

Shapes: N rows, D columns. A numeric column's code is its bin, a categorical column's the position
of its level; where missing is allowed it is the last code.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.rules import is_missing
from pratique_common.schema import CategoricalColumn, NumericColumn, TableSchema

Columns = Mapping[str, NDArray[Any]]
IntArray = NDArray[np.int64]


class TableEncoder:
    """Encodes by the public dictionary alone: nothing is fitted."""

    def __init__(self, schema: TableSchema) -> None:
        self.schema = schema
        self.num_levels = tuple(column.num_levels for column in schema.columns)

    def encode(self, columns: Columns) -> IntArray:
        """Return codes of shape (N, D) of values inside the schema's domains."""
        return np.stack([_encode(c, columns[c.name]) for c in self.schema.columns], axis=1)

    def decode(self, codes_ND: IntArray, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Return values drawn inside each code's bin; ``rng`` need not be secret (post-processing).

        Numbers come as float64 with NaN for missing, levels as object arrays with None.
        """
        return {
            column.name: _decode(column, codes_ND[:, d], rng)
            for d, column in enumerate(self.schema.columns)
        }


def _encode(column: NumericColumn | CategoricalColumn, values: NDArray[Any]) -> IntArray:
    if isinstance(column, NumericColumn):
        edges = column.bin_edges()
        missing = is_missing(values)
        bins = np.searchsorted(edges, np.where(missing, edges[0], values), side="right") - 1
        codes = np.clip(bins, 0, column.num_bins - 1)
    else:
        position = {level: code for code, level in enumerate(column.levels)}
        missing = is_missing(values)
        codes = np.array([position.get(value, -1) for value in values], np.int64)
        if (codes[~missing] < 0).any():
            raise ValueError(f"column {column.name} holds a level outside its domain")
    if missing.any() and not column.missing:
        raise ValueError(f"column {column.name} does not allow missing values")
    return np.where(missing, column.num_levels - 1, codes).astype(np.int64)


def _decode(
    column: NumericColumn | CategoricalColumn, codes: IntArray, rng: np.random.Generator
) -> NDArray[Any]:
    if isinstance(column, CategoricalColumn):
        levels = np.array([*column.levels, None] if column.missing else column.levels, object)
        return np.asarray(levels[codes])
    missing = codes == column.num_bins
    bins = np.where(missing, 0, codes)
    uniform = rng.random(len(codes))
    if column.integer:
        first, last = column.integer_bounds()
        values = first[bins] + np.floor(uniform * (last[bins] - first[bins] + 1))
    else:
        edges = column.bin_edges()
        lower, upper = edges[bins], edges[bins + 1]
        scale = 10.0**column.decimals
        # Rounding down keeps a value below its upper edge; the lower edge may be off the grid.
        rounded = np.floor((lower + uniform * (upper - lower)) * scale) / scale
        values = np.maximum(rounded, lower)
    return np.where(missing, np.nan, values)
