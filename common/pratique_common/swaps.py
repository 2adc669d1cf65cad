"""Values inside bins that rows exchange until they obey the study's rules.

Values drawn again until a rule holds are no longer spread as their column is: of an admission and a
discharge in one bin the admission would be early and the discharge late. Rows that exchange values
of one bin leave every column as it was. First pairs of rows exchange by chance; where two columns
that a rule compares are so near that chance finds nothing more, growing groups of rows take their
values in the order of the other column (ADR 19).

Shapes: N rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.rules import BoolArray

IntArray = NDArray[np.int64]
Cells = dict[str, NDArray[Any]]
Judge = Callable[[Cells, IntArray], BoolArray]
"""Which of some rows obey, given their cells and which they are."""

_LEAST_GROUP_ROWS = 4
_PATIENCE = 5  # passes


class Swaps:
    """Rows that exchange cells of some columns, in place, and which of them obey."""

    def __init__(
        self,
        cells: Cells,
        num_rows: int,
        bins: Mapping[str, IntArray],
        judge: Judge,
        rng: np.random.Generator,
    ) -> None:
        """Take rows.

        Args:
            cells: values (N,) of columns; those in ``bins`` are exchanged in place.
            num_rows: N.
            bins: of the columns that may be exchanged, the bin of each row; -1 where it has none.
            judge: says which rows obey.
            rng: need not be secret (post-processing).
        """
        self.cells, self._judge, self._rng = cells, judge, rng
        self.obeys = judge(cells, np.arange(num_rows))
        self._bins = {name: _Bins(bins_N) for name, bins_N in bins.items()}

    def by_chance(self, passes: int) -> None:
        """Let rows that do not obey exchange values with others of the same bin.

        Two rows do so if not fewer of them obey afterwards: a row that gives up a value that it
        can spare finds another one later. It ends early where nothing is gained any more.
        """
        most, in_vain = 0, 0
        for _ in range(passes):
            found = int(self.obeys.sum())
            in_vain = 0 if found > most else in_vain + 1
            most = max(found, most)
            if found == len(self.obeys) or in_vain > _PATIENCE:
                return
            for name, bins in self._bins.items():
                self._swap(name, *bins.partners(np.flatnonzero(~self.obeys), self._rng))

    def in_order(self, pairs: Iterable[tuple[str, NDArray[Any]]]) -> None:
        """Let groups of rows of a bin take a column's values in the order of other values.

        Groups of four, then of eight and so on, until all rows obey or a group is a bin; no group
        is left with fewer rows that obey. Small groups change the least.

        Args:
            pairs: columns that may be exchanged, and the numbers (N,) in whose order.
        """
        found = [(name, numbers) for name, numbers in pairs if name in self._bins]
        size = _LEAST_GROUP_ROWS
        largest = max((self._bins[name].largest for name, _ in found), default=0)
        while found and not self.obeys.all():
            for name, numbers in found:
                self._sort(name, numbers, size)
            if size >= largest:
                return
            size *= 2

    def put(self, rows: IntArray, fresh: Mapping[str, NDArray[Any]]) -> None:
        """Give rows other cells of some columns."""
        for name, values in fresh.items():
            self.cells[name][rows] = values
        self.obeys[rows] = self._judge(self._of(rows), rows)

    def _swap(self, name: str, rows: IntArray, partners: IntArray) -> None:
        both = np.concatenate([rows, partners])
        trial = self._of(both)
        trial[name] = self.cells[name][np.concatenate([partners, rows])]
        now = self._judge(trial, both)
        kept = now.reshape(2, -1).sum(0) >= self.obeys[both].reshape(2, -1).sum(0)
        kept = np.concatenate([kept, kept])
        self.cells[name][both[kept]] = trial[name][kept]
        self.obeys[both[kept]] = now[kept]

    def _sort(self, name: str, numbers: NDArray[Any], size: int) -> None:
        rows, group = self._bins[name].groups(size, self._rng)
        fits = np.isin(group, group[~self.obeys[rows]])
        rows, group = rows[fits], group[fits]
        taking, giving = (np.lexsort((by[rows], group)) for by in (numbers, self.cells[name]))
        trial = self._of(rows)
        trial[name][taking] = self.cells[name][rows[giving]]
        now = self._judge(trial, rows)
        _, place = np.unique(group, return_inverse=True)
        gain = np.bincount(place, now.astype(float) - self.obeys[rows])
        kept = gain[place] > 0
        self.cells[name][rows[kept]] = trial[name][kept]
        self.obeys[rows[kept]] = now[kept]

    def _of(self, rows: IntArray) -> Cells:
        return {name: values[rows] for name, values in self.cells.items()}


class _Bins:
    """Which rows share a bin."""

    def __init__(self, bins_N: IntArray) -> None:
        self._bins = bins_N
        self._count = np.bincount(bins_N[bins_N >= 0])
        self._start = np.cumsum(self._count) - self._count
        order = np.argsort(bins_N, kind="stable")
        self._rows = order[np.count_nonzero(bins_N < 0) :]
        self.largest = int(self._count.max(initial=0))

    def partners(self, rows: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Return some of the rows and another one of its bin for each; no row comes twice."""
        rows = rng.permutation(rows[self._bins[rows] >= 0])
        count, start = self._count[self._bins[rows]], self._start[self._bins[rows]]
        partners = self._rows[start + rng.integers(0, count)]
        turn = np.arange(len(rows))
        first = np.full(len(self._bins), len(rows))
        np.minimum.at(first, rows, turn)
        np.minimum.at(first, partners, turn)
        free = (first[rows] == turn) & (first[partners] == turn) & (rows != partners)
        return rows[free], partners[free]

    def groups(self, size: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Return all rows that have a bin, and a number of each row's group within its bin."""
        rows = rng.permutation(self._rows)
        rows = rows[np.argsort(self._bins[rows], kind="stable")]
        bins = self._bins[rows]
        within = np.arange(len(rows)) - self._start[bins]
        _, group = np.unique(bins * len(self._bins) + within // size, return_inverse=True)
        return rows, np.asarray(group, np.int64)


def both_ways(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return pairs and their reverses, each once."""
    return list(dict.fromkeys([*pairs, *((second, first) for first, second in pairs)]))
