"""Values inside bins that obey the study's rules, wherever their codes allow it.

Shapes: N rows, D columns, M rows that shape densities.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.encoding import Columns, IntArray, TableEncoder
from pratique_common.rule_grammar import previous
from pratique_common.rules import BoolArray
from pratique_common.solving import solve_equalities
from pratique_common.swaps import Cells, Swaps, both_ways
from pratique_common.visits import may_follow

Fits = Callable[[IntArray, Columns], BoolArray]
"""Which rows, given their codes and values, are as asked beside the rules."""

_REDRAWS = 20
"""Of values inside bins. Two dates in one bin are in order in half of all draws."""
_PASSES, _PASSES_AFTER_REDRAW = 50, 5
_LEAST_CANDIDATES = 50
_LEAST_IN_ALL, _MOST_IN_ALL, _CANDIDATES_A_ROW = 50_000, 500_000, 4
"""Draws for codes of which a rule leaves little: for each code, and in all."""


def decode_obeying(
    encoder: TableEncoder,
    codes_ND: IntArray,
    rng: np.random.Generator,
    *,
    like_MD: IntArray | None = None,
    known: Columns | None = None,
    before: Columns | None = None,
    fits: Fits | None = None,
    evenly: bool = True,
) -> tuple[Cells, BoolArray]:
    """Return values as ``TableEncoder.decode`` does, and which rows obey the study's rules, (N,).

    Rows of one bin exchange values until they obey, so that columns keep their shares inside bins.
    Values of a row that does not obey then are drawn again. Codes for which one draw fails and
    another would not are as frequent as they were. A row that still does not obey has codes that
    hardly can.

    Args:
        encoder: of the study's table.
        codes_ND: what to decode.
        rng: of the draws; need not be secret (post-processing).
        like_MD: as in ``TableEncoder.decode``.
        known: columns whose cells are known already and stay.
        before: of the visits before, (N,), if these are visits that follow others.
        fits: what rows shall be beside obeying; by default all are.
        evenly: let rows exchange values; without it values are only drawn again, which is enough,
            and several times as fast, to learn which codes can obey.
    """
    rows = _Rows(encoder, codes_ND, rng, like_MD, known, before, fits)
    if evenly:
        rows.swap()
    rows.solve()
    rows.draw_again(_PASSES_AFTER_REDRAW if evenly else 0)
    if known is None and before is None:
        rows.draw_rare()
    return rows.columns(), rows.obeys


class _Rows:
    """Rows whose values are being drawn."""

    def __init__(
        self,
        encoder: TableEncoder,
        codes_ND: IntArray,
        rng: np.random.Generator,
        like_MD: IntArray | None,
        known: Columns | None,
        before: Columns | None,
        fits: Fits | None,
    ) -> None:
        self._encoder, self._schema = encoder, encoder.schema
        self._codes, self._rng, self._fits = codes_ND, rng, fits
        self._known, self._before = known or {}, before
        drawn = [name for name in self._schema.names if name not in self._known]
        drawing = encoder.drawing(drawn, codes_ND if like_MD is None else like_MD)
        self._ruled = {n: each for n, each in drawing.items() if n in self._schema.ruled_names}
        self._redrawn = self._ruled if fits is None else drawing
        cells = encoder.cells(drawing, codes_ND, rng)
        judged = {name: cells[name] for name in self._redrawn} or cells
        self._others = {name: values for name, values in cells.items() if name not in judged}
        self._inside = {name: each for name, each in self._ruled.items() if each is not None}
        self._bins = {name: self._bins_of(name) for name in self._inside}
        self._swaps = Swaps(judged, len(codes_ND), self._bins, self._judge, rng)

    @property
    def obeys(self) -> BoolArray:
        """Which rows obey."""
        return self._swaps.obeys

    def columns(self) -> Cells:
        """Return all values of all rows."""
        return self._with_known(self._others | self._swaps.cells, self._known)

    def swap(self) -> None:
        """Let rows exchange values until they obey, first those that are as asked."""
        self._draw_fitting()
        self._swaps.by_chance(_PASSES)
        by_name = {**self._swaps.cells, **self._known}
        by_name |= {previous(name): values for name, values in (self._before or {}).items()}
        by_name = {name: values for name, values in by_name.items() if values.dtype != object}
        pairs = list(self._schema.compared_names)
        if self._schema.visits is not None:
            pairs.append((self._schema.visits.order_by, previous(self._schema.visits.order_by)))
        found = both_ways(pairs)
        self._swaps.in_order((name, by_name[by]) for name, by in found if by in by_name)

    def solve(self) -> None:
        """Replace single values of rows that do not obey where a rule wants sides to be equal."""
        rows = np.flatnonzero(~self.obeys)
        if not len(rows):
            return
        cells = _rows(self._swaps.cells, rows)
        columns = self._with_known(cells, _rows(self._known, rows))
        columns |= {previous(n): values[rows] for n, values in (self._before or {}).items()}
        rules = [rule for rule in self._schema.rules if rule.columns <= set(columns)]
        solve_equalities(rules, columns, self._inside, _rows(self._bins, rows))
        for name in self._inside:
            found = ~np.isnan(columns[name])  # others are not asked for, as yet
            cells[name][found] = columns[name][found]
        fine = self._judge(cells, rows)
        self._swaps.put(rows[fine], {name: cells[name][fine] for name in self._inside})

    def draw_again(self, passes: int) -> None:
        """Draw ruled values of rows that do not obey again."""
        for _ in range(_REDRAWS):
            again = np.flatnonzero(~self.obeys)
            if not len(again) or not self._redrawn:
                return
            fresh = self._encoder.cells(self._redrawn, self._codes[again], self._rng)
            self._swaps.put(again, fresh)
            self._swaps.by_chance(passes)
            self.solve()

    def draw_rare(self) -> None:
        """Look for values among many for codes of which rules leave little, once for equal codes.

        The more rows have a code, the more is drawn for it, and these share what is found: codes
        are as frequent as they were, and a value is repeated where less is found than rows need.
        """
        again = np.flatnonzero(~self.obeys)
        if not len(again) or not self._ruled:
            return
        places = [self._schema.names.index(name) for name in self._ruled]
        _, first, kind, count = np.unique(
            self._codes[again][:, places],
            axis=0, return_index=True, return_inverse=True, return_counts=True,
        )  # fmt: skip
        in_all = np.clip(_CANDIDATES_A_ROW * len(self._codes), _LEAST_IN_ALL, _MOST_IN_ALL)
        kinds = np.argsort(-count, kind="stable")[: in_all // _LEAST_CANDIDATES]
        each = (in_all * count[kinds] // count[kinds].sum()).clip(_LEAST_CANDIDATES)
        kind_C = np.repeat(kinds, each)
        rows = again[first[kind_C]]
        cells = self._encoder.cells(self._redrawn, self._codes[rows], self._rng)
        fine = np.flatnonzero(self._judge(cells, rows))
        found = np.bincount(kind_C[fine], minlength=len(count))
        fine = fine[np.argsort(kind_C[fine], kind="stable")]
        lucky = found[kind] > 0
        kind, again = kind[lucky], again[lucky]
        taken = (np.cumsum(found) - found)[kind] + self._rng.integers(0, found[kind])
        self._swaps.put(again, {name: cells[name][fine[taken]] for name in self._ruled})

    def _draw_fitting(self) -> None:
        """Draw rows again that are not as asked, which exchanges cannot mend."""
        for _ in range(_REDRAWS if self._fits is not None else 0):
            columns = self._with_known(self._swaps.cells, self._known)
            again = np.flatnonzero(~self._as_asked(columns, np.arange(len(self._codes))))
            if not len(again):
                return
            fresh = self._encoder.cells(self._redrawn, self._codes[again], self._rng)
            self._swaps.put(again, fresh)

    def _as_asked(self, columns: Columns, rows: IntArray) -> BoolArray:
        if self._fits is None:
            return np.ones(len(rows), bool)
        return self._fits(self._encoder.blanked(self._codes[rows], columns), columns)

    def _bins_of(self, name: str) -> IntArray:
        d = self._schema.names.index(name)
        codes, column = self._codes[:, d], self._schema.columns[d]
        missing = column.can_be_missing & (codes == column.num_levels - 1)
        return np.where(missing, -1, codes)

    def _judge(self, cells: Cells, rows: IntArray) -> BoolArray:
        columns = self._with_known(cells, _rows(self._known, rows))
        obeying = self._schema.obeys_rules(columns) & self._as_asked(columns, rows)
        if self._before is not None:
            obeying &= may_follow(self._schema, columns, _rows(self._before, rows))
        return obeying

    def _with_known(self, cells: Cells, known: Columns) -> Cells:
        """Put in cells that are known, and make others missing where they are not asked for."""
        rows = {name: values.copy() for name, values in {**cells, **known}.items()}
        self._schema.blank_unasked(rows)
        return rows | {name: values.copy() for name, values in known.items()}


def _rows(columns: Columns, keep: IntArray) -> dict[str, NDArray[Any]]:
    return {name: values[keep] for name, values in columns.items()}
