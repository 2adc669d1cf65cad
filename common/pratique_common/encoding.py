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
from pratique_common.rules import BoolArray, is_missing
from pratique_common.schema import TableSchema
from pratique_common.sub_bins import SubBins
from pratique_common.visits import may_follow

Columns = Mapping[str, NDArray[Any]]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

_REDRAWS = 20
"""Of values inside bins. Two dates in one bin are in order in half of all draws."""


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
        columns = self._cells(self._drawing(self.schema.names, like), codes_ND, rng)
        self.schema.blank_unasked(columns)
        return columns

    def decode_obeying(
        self,
        codes_ND: IntArray,
        rng: np.random.Generator,
        *,
        like_MD: IntArray | None = None,
        known: Columns | None = None,
        before: Columns | None = None,
    ) -> tuple[dict[str, NDArray[Any]], BoolArray]:
        """Return values as ``decode`` does, and which rows obey the study's rules, (N,).

        Values of a row that does not obey are drawn again inside their bins, so that they follow
        their distribution given that they obey. Codes for which one draw fails and another would
        not are as frequent as they were. A row that still does not obey has codes that hardly can.

        Args:
            codes_ND: what to decode.
            rng: of the draws.
            like_MD: as in ``decode``.
            known: columns whose cells are known already and stay.
            before: of the visits before, (N,), if these are visits that follow others.
        """
        like = codes_ND if like_MD is None else like_MD
        given = known or {}
        drawn = [name for name in self.schema.names if name not in given]
        drawing = self._drawing(drawn, like)
        columns = self._with_known(self._cells(drawing, codes_ND, rng), given)
        obeying = self._obeying(columns, before)
        drawing = {n: values for n, values in drawing.items() if n in self.schema.ruled_names}
        for _ in range(_REDRAWS):
            again = np.flatnonzero(~obeying)
            if not len(again) or not drawing:
                break
            fresh = self._cells(drawing, codes_ND[again], rng)
            rows = self._with_known(_rows(columns, again) | fresh, _rows(given, again))
            for name in drawing:
                columns[name][again] = rows[name]
            earlier = None if before is None else _rows(before, again)
            obeying[again] = self._obeying(rows, earlier)
        return columns, obeying

    def _with_known(self, columns: Columns, known: Columns) -> dict[str, NDArray[Any]]:
        """Put in cells that are known, and make others missing where they are not asked for."""
        rows = {**columns, **{name: cells.copy() for name, cells in known.items()}}
        self.schema.blank_unasked(rows)
        return rows | {name: cells.copy() for name, cells in known.items()}

    def _obeying(self, columns: Columns, before: Columns | None) -> BoolArray:
        obeying = self.schema.obeys_rules(columns)
        if before is not None:
            obeying &= may_follow(self.schema, columns, before)
        return obeying

    def _drawing(self, names: Iterable[str], like_MD: IntArray) -> dict[str, ValuesInBins | None]:
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

    def _cells(
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


def _rows(columns: Columns, keep: IntArray) -> dict[str, NDArray[Any]]:
    return {name: cells[keep] for name, cells in columns.items()}


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
