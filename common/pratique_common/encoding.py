"""Rows as integers and back: what the generator and the histograms see.

Shapes: N rows, D columns. A numeric column's code is its bin, a categorical column's the position
of its level; where missing is allowed it is the last code.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.columns import AnyColumn, CategoricalColumn
from pratique_common.in_bins import ValuesInBins
from pratique_common.rules import is_missing
from pratique_common.schema import TableSchema
from pratique_common.sub_bins import SubBins

Columns = Mapping[str, NDArray[Any]]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


class TableEncoder:
    """Encodes by the public dictionary alone: nothing is fitted."""

    def __init__(self, schema: TableSchema, within_S: Float64Array | None = None) -> None:
        """Take a schema and, for decoding, what share of its bin each sub-bin has, (S,)."""
        self.schema = schema
        self._within = {} if within_S is None else SubBins(schema.columns).by_bin(within_S)
        self.num_levels = tuple(column.num_levels for column in schema.columns)

    def encode(self, columns: Columns) -> IntArray:
        """Return codes of shape (N, D) of values inside the schema's domains."""
        return np.stack(list(self.encode_columns(columns)), axis=1)

    def encode_columns(self, columns: Columns) -> Iterator[IntArray]:
        """Yield the codes of one column after the other, each (N,)."""
        for column in self.schema.columns:
            yield _encode(column, columns[column.name])

    def decode(
        self, codes_ND: IntArray, rng: np.random.Generator, *, like_MD: IntArray | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return values drawn inside each code's bin; ``rng`` need not be secret (post-processing).

        Numbers come as float64 with NaN for missing, levels as object arrays with None. Cells that
        the study does not ask for are missing, whatever their code.

        Args:
            codes_ND: what to decode.
            rng: of the draws.
            like_MD: codes whose shares of bins shape the density inside bins; by default the same.
        """
        like = codes_ND if like_MD is None else like_MD
        columns = self.cells(self.drawing(self.schema.names, like), codes_ND, rng)
        self.schema.blank_unasked(columns)
        return columns

    def drawing(self, names: Iterable[str], like_MD: IntArray) -> dict[str, ValuesInBins | None]:
        """Return what draws values of some columns; None where a code is a level."""
        drawing: dict[str, ValuesInBins | None] = {}
        for name in names:
            d = self.schema.names.index(name)
            column, within = self.schema.columns[d], self._within.get(name)
            if isinstance(column, CategoricalColumn):
                drawing[name] = None
                continue
            counts = np.bincount(like_MD[:, d], minlength=column.num_levels)[: column.num_bins]
            drawing[name] = ValuesInBins(column, counts.astype(np.float64), within)
        return drawing

    def cells(
        self,
        drawing: Mapping[str, ValuesInBins | None],
        codes_ND: IntArray,
        rng: np.random.Generator,
    ) -> dict[str, NDArray[Any]]:
        """Return values of some columns, in cells that are not asked for as well."""
        cells = {}
        for name, inside in drawing.items():
            d = self.schema.names.index(name)
            cells[name] = _decode(self.schema.columns[d], codes_ND[:, d], inside, rng)
        return cells

    def blanked(self, codes_ND: IntArray, columns: Columns) -> IntArray:
        """Return codes with the code of missing where decoded cells are missing."""
        codes_ND = codes_ND.copy()
        for d, column in enumerate(self.schema.columns):
            if column.asked_if is not None:
                codes_ND[is_missing(columns[column.name]), d] = column.num_levels - 1
        return codes_ND


def _encode(column: AnyColumn, values: NDArray[Any]) -> IntArray:
    if not isinstance(column, CategoricalColumn):
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
    if missing.any() and not column.can_be_missing:
        raise ValueError(f"column {column.name} does not allow missing values")
    return np.where(missing, column.num_levels - 1, codes).astype(np.int64)


def _decode(
    column: AnyColumn, codes: IntArray, inside: ValuesInBins | None, rng: np.random.Generator
) -> NDArray[Any]:
    if isinstance(column, CategoricalColumn):
        levels = np.array(
            [*column.levels, None] if column.can_be_missing else column.levels, object
        )
        return np.asarray(levels[codes])
    assert inside is not None
    missing = codes == column.num_bins
    values = np.full(len(codes), np.nan)
    values[~missing] = inside.draw(codes[~missing], rng)
    return values
