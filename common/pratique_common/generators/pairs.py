"""One- and two-way statistics of encoded rows as one vector.

Shapes: D columns, C = all levels of all columns. A row's statistics are w (o - p), C numbers, and
(o_a - p_a)(o_b - p_b)ᵀ for all pairs of columns a < b, with o the row's one-hot levels, p public
one-way marginals and w a weight. They are centred because that makes the typical row's small: where
nearly all patients share a level, only the others count for much. What has to do with the target
counts more: it has few of the pairs, and is what a table is made for.
"""

import math
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from pratique_common.schema import TableSchema

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

ONE_WAY_WEIGHT = 0.8
"""w: what one-way statistics get of a patient's norm. Flat from .5 to 1 on Adult (ADR 6)."""

TARGET_SHARE = 0.4
"""Share of a typical patient's squared two-way norm for pairs with the target. At ε = 1 it brings
the AUC on Adult from .905 to .908, with 2,000 patients from .838 to .857, with 500 from .70 to .78,
and costs 4 % of the two-way distance (4 seeds); more brings little more (ADR 6)."""

_MOST_WEIGHT = 8.0  # of a target that hardly varies

_TYPICAL_SHARE = 0.8
"""Bound of a patient's statistics over the norm of a typical patient with independent columns.
Clipping needs not be rare, since the fit clips its synthetic rows alike: .7 to .9 differ by less
than the spread over seeds on Adult at ε = 1, and 1.1 costs 5 % of the two-way distance (ADR 6)."""


class PairLayout:
    """Where the statistics of a schema lie in their vector.

    Where rows are visits, what was noted at the visit before is paired with the same column only.
    """

    def __init__(self, schema: TableSchema) -> None:
        columns = schema.trained.columns
        self.num_levels = tuple(column.num_levels for column in columns)
        num_before = len(schema.remembered)
        self.num_now = len(columns) - num_before
        """Columns of which all pairs are measured: those before the ones of the visit before."""
        self.lags = [
            (schema.names.index(n), self.num_now + i) for i, n in enumerate(schema.remembered)
        ]
        self.pairs = [*combinations(range(self.num_now), 2), *self.lags]
        self._target = None if schema.target is None else schema.names.index(schema.target)
        self.offsets: IntArray = np.concatenate([[0], np.cumsum(self.num_levels)])
        self.num_cells = int(self.offsets[-1])
        column_of_cell = np.repeat(np.arange(len(self.num_levels)), self.num_levels)
        measured_DD = np.zeros((len(columns),) * 2, bool)
        measured_DD[tuple(np.transpose(self.pairs))] = True
        self._upper = measured_DD[column_of_cell][:, column_of_cell]
        self.size = self.num_cells + int(self._upper.sum())

    def split(
        self, vector_P: Float64Array, weights_D: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """Return one-way statistics (C,) and a symmetric matrix of two-way statistics (C, C).

        The columns' weights are taken off again.
        """
        matrix_CC = np.zeros((self.num_cells, self.num_cells))
        matrix_CC[self._upper] = vector_P[self.num_cells :]
        u_C = self.by_cell(weights_D)
        return vector_P[: self.num_cells] / u_C, (matrix_CC + matrix_CC.T) / np.outer(u_C, u_C)

    def join(
        self, one_way_C: Float64Array, matrix_CC: Float64Array, weights_D: Float64Array
    ) -> Float64Array:
        """Return the weighted vector of one-way statistics and a matrix' upper blocks, (size,)."""
        u_C = self.by_cell(weights_D)
        return np.concatenate([one_way_C * u_C, (matrix_CC * np.outer(u_C, u_C))[self._upper]])

    def by_cell(self, values_D: Float64Array) -> Float64Array:
        """Return each column's value for each of its levels, (C,)."""
        return np.repeat(values_D, self.num_levels)

    def by_column(self, cells: Float64Array) -> list[Float64Array]:
        """Return the parts of an array (C, ...) that belong to each column."""
        return [cells[start:end] for start, end in pairwise(self.offsets.tolist())]

    def weights(self, marginals_C: Float64Array) -> Float64Array:
        """Return by what each column's statistics are multiplied, (D,): 1, or more for the target.

        The target's pairs then have ``TARGET_SHARE`` of a typical patient's squared norm.
        """
        weights = np.ones(len(self.num_levels))
        if self._target is None:
            return weights
        spread = self._spread(marginals_C)
        others = np.where(np.arange(len(spread)) == self._target, 0.0, spread)
        without = float(self.over_pairs(others))
        with_target = float(self.over_pairs(spread)) - without
        wanted = math.sqrt(TARGET_SHARE / (1 - TARGET_SHARE) * without / max(with_target, 1e-9))
        weights[self._target] = min(max(wanted, 1.0), _MOST_WEIGHT)
        return weights

    def bound(self, marginals_C: Float64Array) -> float:
        """Return the L2 norm to which a patient's statistics are clipped: public, as marginals are.

        With independent columns E ‖o_a - p_a‖² = 1 - Σ p_a².
        """
        spread = self.weights(marginals_C) ** 2 * self._spread(marginals_C)
        typical = math.sqrt(ONE_WAY_WEIGHT**2 * spread.sum() + float(self.over_pairs(spread)))
        return max(_TYPICAL_SHARE * typical, 1e-3)

    def _spread(self, marginals_C: Float64Array) -> Float64Array:
        return np.array([1 - (p**2).sum() for p in self.by_column(marginals_C)]).clip(min=0)

    def over_pairs(self, x: Float64Array) -> Float64Array:
        """Return Σ x_a x_b over measured pairs of columns, (...) of (..., D)."""
        now = x[..., : self.num_now]
        total = (now.sum(-1) ** 2 - (now**2).sum(-1)) / 2
        for a, b in self.lags:
            total = total + x[..., a] * x[..., b]
        return np.asarray(total)
