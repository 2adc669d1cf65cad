"""Finer histograms: each bin of a numeric column cut into up to 32 sub-bins.

A generator sees bins. Where values heap inside a bin (40 hours a week, weights in whole kilograms),
a second noised histogram tells, and synthetic values heap there, too. The cuts follow from the
public dictionary alone.

Shapes: N rows, S = all sub-bins of all columns that have any.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.binned_columns import BinnedColumn
from pratique_common.columns import AnyColumn, CategoricalColumn

Float64Array = NDArray[np.float64]

_SUB_BINS = 32
"""Of a bin, at most. Real rows through bins and noised, equal sub-bins, Adult, two-way distance to
themselves: .0079 with 16, .0082 with 32, .0087 with 64 at ε = 1, .0057, .0058, .0061 at ε = 10;
.0113 without. More sub-bins show finer heaps."""
_MOST_ALONE = 15
"""Weights of 20,000 people to .1 kg, two in five at multiples of 5, through 16 bins: distance of
single values .04 at ε = 10 and .17 at ε = 1, .59 and .63 with equal cuts alone. Adult, where few
columns heap: .0058 and .0079, .0057 and .0078."""


def sub_edges(column: BinnedColumn) -> list[Float64Array]:
    """Return the edges of each bin's sub-bins, both ends included.

    Cuts lie on the grid of values that are shown, where synthetic values are rounded down to. If
    these are many, round ones have a sub-bin each, since people write them more often, and equal
    cuts part the others.
    """
    scale, cuts = 10.0**column.decimals_shown, []
    for low, high in pairwise(column.open_edges()):
        first, last = np.floor(low * scale) + 1, np.ceil(high * scale)
        if last - first < _SUB_BINS:
            inner = np.arange(first, last)
        else:
            alone = np.rint(column.round_values(low, high, most=_MOST_ALONE) * scale)
            ends = column.stretch(np.array([low, high]))
            equal = column.unstretch(np.linspace(ends[0], ends[1], _SUB_BINS - 2 * len(alone) + 1))
            equal[[0, -1]] = low, high  # which a stretch and back may have moved
            inner = np.concatenate([np.rint(equal * scale), alone, alone + 1])
        inside = np.unique(inner) / scale
        inside = inside[(inside > low) & (inside < high)]
        cuts.append(np.concatenate([[low], inside, [high]]))
    return cuts


def sub_bin_of(
    column: BinnedColumn, starts: Float64Array, values: Float64Array
) -> NDArray[np.int64]:
    """Return each value's place among the sub-bins that begin at ``starts``, in one row."""
    nearly = 1e-6 * 10.0**-column.decimals_shown  # 0.1 + 0.2 is 0.3
    place = np.searchsorted(starts, values + nearly, side="right") - 1
    return np.asarray(place.clip(0), np.int64)


class SubBins:
    """All sub-bins of some columns, one column after the other, as one vector."""

    def __init__(self, columns: Iterable[AnyColumn]) -> None:
        self.columns: list[BinnedColumn] = []
        self._edges: list[list[Float64Array]] = []
        for column in columns:
            if isinstance(column, CategoricalColumn):
                continue
            cuts = sub_edges(column)
            if any(len(edges) > 2 for edges in cuts):
                self.columns.append(column)
                self._edges.append(cuts)
        sizes = [sum(len(edges) - 1 for edges in cuts) for cuts in self._edges]
        self._offsets = np.cumsum([0, *sizes])
        self.size = int(self._offsets[-1])

    def count(self, columns: Mapping[str, NDArray[Any]], weight_N: Float64Array) -> Float64Array:
        """Return the weight of rows in each sub-bin, (S,); missing values are in none."""
        counts = np.zeros(self.size)
        for column, cuts, start in zip(self.columns, self._edges, self._offsets, strict=False):
            inner = np.concatenate([edges[:-1] for edges in cuts])
            values = np.asarray(columns[column.name], np.float64)
            known = ~np.isnan(values)
            place = sub_bin_of(column, inner, values[known])
            found = np.bincount(place, weight_N[known], minlength=len(inner))
            counts[start : start + len(inner)] = found
        return counts

    def by_bin(self, vector_S: Float64Array) -> dict[str, list[Float64Array]]:
        """Return a vector's parts: column → one array for each of its bins."""
        parts = {}
        for column, cuts, start in zip(self.columns, self._edges, self._offsets, strict=False):
            ends = start + np.cumsum([0, *(len(edges) - 1 for edges in cuts)])
            parts[column.name] = [vector_S[low:high] for low, high in pairwise(ends)]
        return parts
